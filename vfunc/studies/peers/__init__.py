"""One lookahead problem, asked of this package and of others that differentiate through steps."""
