"""Taking secrets out of text: values that are known, in the encodings in which they leak, and keys of well-known kinds.

The way of the bytes, each step a module:

1. `invisible` normalises: the text as it is searched, without line ends, escape sequences and characters of no width.
2. `multi_search` finds the known values (`encodings` makes what to look for, with `assignments`), `pattern_search` the
   keys of `key_patterns`; both also tell what the end of the text may be the beginning of.
3. `secret_search` does both in all views of a text and maps what was found to `spans` of the original bytes.
4. `stream_redactor`, for text that comes in chunks, holds chunks back while the end may begin a secret, and gives out
   the others with the spans replaced. A text that is whole needs `SecretSearch.redact` only.

Standard library only: the courier in a pod uses it, and so does ingest.
"""
