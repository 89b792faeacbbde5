"""The beginning of a TLS connection as a client writes it (RFC 8446, 6066): its server name is compared.

Nothing is decrypted. A server may ask for the hello once more (HelloRetryRequest), and some then go by the second one's
name; so that one is compared as well.
"""

from egress import hosts

HANDSHAKE, APPLICATION = 22, 23  # types of records; others between two hellos just pass
CLIENT_HELLO = 1
SERVER_NAME, EARLY_DATA = 0, 42  # extensions
HEADER = 5  # bytes before a record's content
MAX_RECORD = 16 * 1024 + 2048  # bytes of content, RFC 5246
MAX_HELLO = 32 * 1024  # bytes; one with post-quantum keys has about 2,000


class HelloError(Exception):
    """What came is no TLS, names no server, or another one. The message says which, for people."""


class SniFilter:
    """Lets a client's bytes pass once it is known that they are for one host.

    `hello_passed` is true after the first hello, `is_open` once no other hello can come.
    """

    __slots__ = ("early", "hello", "hello_passed", "host", "is_open", "partial_record", "records")

    def __init__(self, host: str) -> None:
        """`host` is in A-label form."""
        self.host = host
        self.partial_record = bytearray()
        self.hello = bytearray()  # content of the records of a hello that is not complete
        self.records = bytearray()  # those records
        self.hello_passed = self.is_open = self.early = False

    def feed(self, data: bytes) -> bytes:
        """Take more bytes of the client; return those that may pass now. Raises HelloError and nothing else."""
        self.partial_record += data
        out = bytearray()
        while not self.is_open and (size := self._record_size()):
            record = bytes(self.partial_record[:size])
            del self.partial_record[:size]
            out += self._filter(record)
        if self.is_open:
            out += self.partial_record
            self.partial_record.clear()
        return bytes(out)

    def _record_size(self) -> int:
        """Return the length of the buffered record, header included; 0 while it is not complete."""
        data = self.partial_record
        if (data and not self.hello_passed and data[0] != HANDSHAKE) or (len(data) > 1 and data[1] != 3):
            raise HelloError("not TLS")
        if len(data) < HEADER:
            return 0
        length = int.from_bytes(data[3:HEADER], "big")
        if not length or length > MAX_RECORD:
            raise HelloError("a TLS record of a wrong length")
        return HEADER + length if len(data) >= HEADER + length else 0

    def _filter(self, record: bytes) -> bytes:
        """Return what may pass now that this record is complete."""
        kind, content = record[0], record[HEADER:]
        if self.hello or not self.hello_passed or (kind == HANDSHAKE and content[0] == CLIENT_HELLO):
            return self._collect(kind, content, record)
        if kind == HANDSHAKE or (kind == APPLICATION and not self.early):
            self.is_open = True  # the handshake has gone on, so the server did not ask again
        return record

    def _collect(self, kind: int, content: bytes, record: bytes) -> bytes:
        if kind != HANDSHAKE:
            raise HelloError("a TLS hello that breaks off")
        self.hello += content
        self.records += record
        if self.hello[0] != CLIENT_HELLO:
            raise HelloError("TLS that does not begin with a client's hello")
        size = 4 + int.from_bytes(self.hello[1:4], "big") if len(self.hello) >= 4 else 0
        if max(size, len(self.hello)) > MAX_HELLO or len(self.hello) > size > 0:
            raise HelloError("a TLS hello of a wrong length")
        if not size or len(self.hello) < size:
            return b""
        self._compare(ClientHello(bytes(self.hello[4:])))
        out = bytes(self.records)
        self.hello.clear()
        self.records.clear()
        return out

    def _compare(self, hello: "ClientHello") -> None:
        if hello.name is None:
            raise HelloError("no server name in the TLS hello")
        if hello.name != self.host:
            raise HelloError(f"the TLS hello names {hello.name}")
        self.is_open = self.hello_passed  # a server asks once
        self.early = hello.early
        self.hello_passed = True


class ClientHello:
    """Of a ClientHello: `name` in A-label form (None: there is none), and whether early data follows."""

    __slots__ = ("early", "name")

    def __init__(self, body: bytes) -> None:
        """`body` is the message without its header. Raises HelloError if it is not exactly one."""
        fields = FieldReader(body)
        fields.take(2 + 32)  # version, random
        fields.vector(1)  # session
        fields.vector(2)  # cipher suites
        fields.vector(1)  # compression
        extensions: dict[int, bytes] = {}
        rest = FieldReader(fields.vector(2) if fields.remaining else b"")
        fields.end()
        while rest.remaining:
            kind = rest.integer(2)
            if kind in extensions:
                raise HelloError("a TLS hello with an extension twice")
            extensions[kind] = rest.vector(2)
        self.early = EARLY_DATA in extensions
        self.name = server_name(extensions[SERVER_NAME]) if SERVER_NAME in extensions else None


def server_name(extension: bytes) -> str:
    """Return the one name of a server_name extension (RFC 6066) in A-label form. Raises HelloError if it has none."""
    outer = FieldReader(extension)
    names = FieldReader(outer.vector(2))
    outer.end()
    kind, name = names.integer(1), names.vector(2)
    names.end()
    try:
        if kind == 0:
            return hosts.normalize(name.decode())
    except ValueError:
        pass
    raise HelloError("a TLS hello whose server name is no host name")


class FieldReader:
    """Reads fields from the front of some bytes; HelloError when they are not there."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    @property
    def remaining(self) -> int:
        """Bytes that have not been read."""
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > self.remaining:
            raise HelloError("a TLS hello that is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def integer(self, width: int) -> int:
        """Return the next number, of `width` bytes."""
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """Return the bytes that follow their own length, which has `width` bytes."""
        return self.take(self.integer(width))

    def end(self) -> None:
        """Raise HelloError unless all has been read."""
        if self.remaining:
            raise HelloError("a TLS hello with bytes too many")
