"""The credential broker: agents talk to it with a stand-in for a model's key, and it puts the real one in its place.

`views` is the ASGI application under /broker/v1/, `authorization` asks the database, and the rest is pure. So a key is
in no pod: what an agent could give away is good for its own run alone, and for nothing but these few addresses.
"""
