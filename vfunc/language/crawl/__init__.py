"""A stream as a crawl brings it: useful texts among prose, code, boilerplate and shuffled words."""
