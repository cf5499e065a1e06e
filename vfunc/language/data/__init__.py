"""Text of a language run: embedded word problems, files and Hub data sets, as token sequences."""
