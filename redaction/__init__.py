"""Taking secrets out of text: values that are known, in the forms in which they leak, and keys of well-known kinds.

`forms` makes the forms of a value, `exact` finds them, `known` knows the kinds; `scanner` does both, for whole texts,
`stream` for text that comes in pieces. Standard library only: the courier in a pod uses it, and so does ingest.
"""
