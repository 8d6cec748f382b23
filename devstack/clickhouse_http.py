"""ClickHouse's HTTP interface in front of ClickHouse's engine in this process (chdb: one process, one data directory).

    clickhouse_http.py --path DIR --spool DIR --port N [--host 127.0.0.1]

Guarantees for clients, with their reasons:

- One engine connection per request (0.2 ms). A connection runs one query at a time and keeps SET and USE, so a
  shared one would serialise requests and leak settings between them.
- The whole request is read before the engine gets it, so an interrupted upload inserts nothing.
- The rows of an INSERT reach the engine through a file, never inside the query text: the engine's multi-statement mode
  ends inline data at the first blank line and runs the rest as SQL. The engine's streaming inserter is not used
  either: it reports success for rows that violate a constraint, and stores none of them.
- One statement per request, as in the real server.
- An INSERT is refused if its rows cannot be separated from its text: `insert … select … from input(…)` would store 0 rows.
- The user `analyst` can only read, within the limits of `deploy/clickhouse/users.xml`. They are set last in each of its requests,
  and the engine enforces them.

It buffers whole requests and responses. It has no other users, passwords, grants or quotas, because the engine has no access
management in process. Failed requests are logged on standard error.
"""

import argparse
import base64
import ctypes
import gzip
import importlib.util
import json
import os
import re
import shutil
import signal
import socketserver
import struct
import sys
import tempfile
import threading
import time
import types
import uuid
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import lz4.block
import lz4.frame
import zstandard
from clickhouse_cityhash.cityhash import CityHash128


def load_engine():
    """The engine's module without the package around it, which imports pandas and pyarrow (not installed)."""
    package = types.ModuleType("chdb")
    package.__path__ = list(importlib.util.find_spec("chdb").submodule_search_locations)
    sys.modules["chdb"] = package
    if sys.platform == "linux":
        # Like the package: the engine's allocator must replace libstdc++'s operator new.
        deepbind = 0x00008
        ctypes.CDLL(os.path.join(package.__path__[0], "_chdb.abi3.so"), mode=sys.getdlopenflags() | deepbind)
    from chdb import _chdb

    return _chdb


# --- the text of a request -------------------------------------------------------------------------------

# Parameters of the interface itself. All others are settings or query parameters.
TRANSPORT = {
    "buffer_size", "client_protocol_version", "close_session", "compress", "database", "decompress", "default_format",
    "enable_http_compression", "http_headers_progress_interval_ms", "http_zlib_compression_level", "no_cache",
    "password", "query", "query_id", "quota_key", "role", "send_progress_in_http_headers", "session_check",
    "session_id", "session_timeout", "stacktrace", "user", "wait_end_of_query",
}  # fmt: skip
# Users with their own profile. All others may do everything.
PROFILES = {"analyst": {"max_execution_time": "60", "max_memory_usage": "4000000000", "readonly": "1"}}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*(?:SETTINGS\b.*)?\Z", re.I | re.S)
COMMENTS = rb"\s*(?:(?:/\*.*?\*/|--[^\n]*\n)\s*)*"
STARTS_INSERT = re.compile(COMMENTS + rb"INSERT\b", re.I | re.S)
IDENTIFIER = rb"(?:`[^`]*`|\"[^\"]*\"|\w+)"
TABLE = rb"(?:FUNCTION\s+\w+\s*\(.*?\)|%s(?:\s*\.\s*%s)?)" % (IDENTIFIER, IDENTIFIER)
COLUMNS = rb"(?:\((?:[^()]|\([^()]*\))*\)\s*)?"
INSERT_WITH_ROWS = re.compile(
    COMMENTS + rb"(INSERT\s+INTO\s+(?:TABLE\s+)?" + TABLE + rb"\s*" + COLUMNS + rb"(?:SETTINGS\s+[^\n]*?)??)"
    rb"\s*\b(?:FORMAT\s+(\w+)|(VALUES))(?:[ \t\r]*;?[ \t\r]*(?:\n|\Z)|\s+(?=\S)|(?=\())",
    re.I | re.S,
)
SETTINGS = re.compile(rb"(.*?)(\s+(SETTINGS\s.*))?\Z", re.I | re.S)
COMMENT = rb"--[^\n]*|\#[ !][^\n]*|/\*(?:[^*]|\*(?!/))*\*/"
# Text in which a semicolon has no meaning, or a semicolon that more than white space and comments follow.
TOKEN = re.compile(
    rb"'(?:\\.|''|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|`(?:\\.|[^`\\])*`|\$(\w*)\$.*?\$\1\$|" + COMMENT
    + rb"|(?P<second>;(?!(?:\s|;|" + COMMENT + rb")*\Z))",
    re.S,
)  # fmt: skip
# The longest query text that can have its rows in the same body.
HEAD_BYTES = 1 << 16


class QueryError(Exception):
    """An error in the engine's format: `Code: N. DB::Exception: …`."""


def parse(sql, body, default_format):
    """(statement, format, rows or None) of a query from the URL, which may be empty, and of a body."""
    head = sql or body[:HEAD_BYTES]
    insert = INSERT_WITH_ROWS.match(head)
    if insert:
        rows = sql[insert.end() :] + body if sql else memoryview(body)[insert.end() :]
        if sql and insert.end() < len(sql) and body:
            rows = sql[insert.end() :] + b"\n" + body
        if len(rows):
            check_single(insert.group(1))
            return insert.group(1), (insert.group(2) or b"Values").decode(), rows
    if sql and body and STARTS_INSERT.match(sql):
        raise QueryError("Code: 48. DB::Exception: devstack's front takes the rows of INSERT … FORMAT and INSERT … "
                         "VALUES only, not of this INSERT. (NOT_IMPLEMENTED)")  # fmt: skip
    statement = sql + b"\n" + body if sql and body else sql or body
    if not statement.strip():
        raise QueryError("Code: 62. DB::Exception: Syntax error: failed at position 1: empty query. (SYNTAX_ERROR)")
    check_single(statement)
    named = FORMAT.search(statement[-200:])
    return statement, named.group(1).decode() if named else default_format, None


def check_single(statement):
    if any(token.group("second") for token in TOKEN.finditer(statement)):
        raise QueryError("Code: 62. DB::Exception: Syntax error (Multi-statements are not allowed). (SYNTAX_ERROR)")


def multipart(body, content_type):
    """(name, value) of each part, for clients that send query parameters this way."""
    boundary = b"--" + re.search(r'boundary="?([^";]+)', content_type).group(1).encode()
    for part in body.split(boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        yield re.search(rb'name="([^"]*)"', head).group(1).decode(), value[:-2]


# --- compression ----------------------------------------------------------------------------------------------------

LZ4, ZSTD = 0x82, 0x90
CHECKSUM_BYTES, HEAD = 16, struct.Struct("<BII")  # method, compressed size with this head, raw size


def checksum(block):
    h = CityHash128(block)
    return struct.pack("<QQ", h >> 64, h & 0xFFFFFFFFFFFFFFFF)


def unframe(data):
    """ClickHouse's compressed blocks, each with its checksum."""
    out, at = [], 0
    while at < len(data):
        if len(data) - at < CHECKSUM_BYTES + HEAD.size:
            raise QueryError("Code: 33. DB::Exception: Cannot read all data of a block. (CANNOT_READ_ALL_DATA)")
        method, size, raw_size = HEAD.unpack_from(data, at + CHECKSUM_BYTES)
        block = data[at + CHECKSUM_BYTES : at + CHECKSUM_BYTES + size]
        if checksum(block) != data[at : at + CHECKSUM_BYTES]:
            raise QueryError("Code: 40. DB::Exception: Checksum doesn't match. (CHECKSUM_DOESNT_MATCH)")
        payload = block[HEAD.size :]
        if method == LZ4:
            payload = lz4.block.decompress(payload, uncompressed_size=raw_size)
        elif method == ZSTD:
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=raw_size)
        out.append(payload)
        at += CHECKSUM_BYTES + size
    return b"".join(out)


def frame(data, step=1 << 20):
    out = []
    for at in range(0, len(data), step):
        raw = data[at : at + step]
        payload = lz4.block.compress(raw, store_size=False)
        block = HEAD.pack(LZ4, len(payload) + HEAD.size, len(raw)) + payload
        out += [checksum(block), block]
    return b"".join(out)


def decode(body, encoding):
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    if encoding == "lz4":
        return lz4.frame.decompress(body)
    return body


def encode(body, accepted):
    """(body, encoding or None)"""
    if body and "lz4" in accepted:
        return lz4.frame.compress(body), "lz4"
    if body and "zstd" in accepted:
        return zstandard.ZstdCompressor(1).compress(body), "zstd"
    if body and "gzip" in accepted:
        return gzip.compress(body, 1), "gzip"
    return body, None


# --- the engine -----------------------------------------------------------------------------------------------------


def quote(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Session:
    """A connection for several requests: it keeps temporary tables and SET, and runs one query at a time."""

    def __init__(self, connection):
        self.connection, self.busy = connection, threading.Lock()


class Engine:
    def __init__(self, path, spool):
        self.path, self.spool, self.module = path, spool, load_engine()
        self.sessions, self.lock = {}, threading.Lock()
        self.keep = self.connect()  # keeps the engine open between requests
        answer = self.keep.query("SELECT version()", "TabSeparatedRaw", params={})
        self.version = bytes(answer.bytes()).decode().strip()

    def connect(self):
        return self.module.connect(self.path)

    def run(self, statement, fmt, rows, database, settings, session):
        """(answer, rows read, bytes read, rows written, bytes written)"""
        if session:
            return self.run_in_session(statement, fmt, rows, database, settings, session)
        connection = self.connect()
        try:
            return self.execute(connection, statement, fmt, rows, database, settings)
        finally:
            connection.close()

    def run_in_session(self, statement, fmt, rows, database, settings, name):
        with self.lock:
            if name not in self.sessions:
                self.sessions[name] = Session(self.connect())
            session = self.sessions[name]
            if not session.busy.acquire(blocking=False):
                raise QueryError(f"Code: 373. DB::Exception: Session {name} is locked by a concurrent client. "
                                 "(SESSION_IS_LOCKED)")  # fmt: skip
        try:
            return self.execute(session.connection, statement, fmt, rows, database, settings)
        finally:
            try:
                for setting in settings:
                    if not setting.startswith("param_"):
                        session.connection.query(f"SET {setting} = DEFAULT", "Null", params={})
            finally:
                session.busy.release()

    def execute(self, connection, statement, fmt, rows, database, settings):
        if database:
            connection.query("USE `{}`".format(database.replace("`", "``")), "Null", params={})
        if settings:
            pairs = ", ".join(f"{name} = {quote(value)}" for name, value in settings.items())
            connection.query(f"SET {pairs}", "Null", params={})
        if rows is None:
            r = connection.query(statement, fmt, params={})
            return bytes(r.bytes()), r.rows_read(), r.bytes_read(), r.rows_written(), r.bytes_written()
        with tempfile.NamedTemporaryFile(dir=self.spool) as file:
            file.write(rows)
            file.flush()
            into, _, tail = SETTINGS.match(statement).groups()  # the grammar requires SETTINGS after the file
            name = quote(file.name).encode()
            insert = b"%s FROM INFILE %s COMPRESSION 'none' %s FORMAT %s" % (into, name, tail or b"", fmt.encode())
            r = connection.query(insert, "Null", params={})
            return b"", 0, 0, r.rows_written(), r.bytes_written()


# --- HTTP -----------------------------------------------------------------------------------------------------------

STATUS = {
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 43, 44, 53, 62, 69, 70, 72, 117, 321, 349, 456, 457, 691), 400),
    **dict.fromkeys((192, 193, 194, 497, 516), 403),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 81, 115), 404),
    48: 501, 159: 408, 307: 413, 373: 500,
}  # fmt: skip
TYPES = {
    "CSV": "text/csv; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version = "HTTP/1.1", "clickhouse_http", ""
    disable_nagle_algorithm, wbufsize = True, 1 << 16

    def do_GET(self):
        self.handle_request(settings={"readonly": "2"})

    do_HEAD = do_GET

    def do_POST(self):
        self.handle_request(settings={})

    def handle_request(self, settings):
        url = urlsplit(self.path)
        try:
            body = self.read_body()
        except (ValueError, OSError) as error:
            print(f"{self.command} {url.path}: body cut off or malformed: {error}", file=sys.stderr, flush=True)
            self.close_connection = True
            return
        if url.path == "/ping" or url.path in ("", "/") and self.command != "POST" and not url.query:
            self.answer(200, b"Ok.\n", Content_Type="text/html; charset=UTF-8")
        elif url.path not in ("", "/"):
            self.answer(404, b"There is no handle " + url.path.encode() + b"\n")
        else:
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            query_id = query.get("query_id") or self.headers.get("X-ClickHouse-Query-Id") or str(uuid.uuid4())
            try:
                self.handle_query(query, query_id, body, settings)
            except ConnectionError:
                raise
            except Exception as error:  # the client gets a response and the log a line, whatever the error
                self.answer_error(error, query_id)

    def handle_query(self, query, query_id, body, settings):
        started = time.perf_counter_ns()
        body = decode(body, self.headers.get("Content-Encoding", "").lower())
        if query.get("decompress") == "1":
            body = unframe(body)
        sql = query.get("query", "").encode()
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            for name, value in multipart(body, content_type):
                if name == "query":
                    sql += value
                else:
                    query[name] = value.decode()
            body = b""
        default_format = query.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        statement, fmt, rows = parse(sql, body, default_format)
        given = {name: value for name, value in query.items() if name not in TRANSPORT and NAME.match(name)}
        database = query.get("database") or self.headers.get("X-ClickHouse-Database")
        profile = PROFILES.get(self.user(query), {})
        # A profile comes last, so that nothing overrides it. In a session its settings would stay and could not be undone.
        session = None if profile else query.get("session_id")
        settings = {name: value for name, value in (given | settings).items() if name not in profile} | profile
        out, *counts = ENGINE.run(statement, fmt, rows, database, settings, session)

        summary = dict(zip(("read_rows", "read_bytes", "written_rows", "written_bytes"), counts, strict=True))
        summary |= {"total_rows_to_read": 0, "result_bytes": len(out), "elapsed_ns": time.perf_counter_ns() - started}
        default_type = "application/json" if fmt.startswith("JSON") else "application/octet-stream"
        headers = {
            "Content_Type": TYPES.get(fmt, default_type),
            "X_ClickHouse_Query_Id": query_id,
            "X_ClickHouse_Format": fmt,
            "X_ClickHouse_Timezone": "UTC",
            "X_ClickHouse_Server_Display_Name": "clickhouse_http",
            "X_ClickHouse_Summary": json.dumps({name: str(value) for name, value in summary.items()}),
        }
        if query.get("compress") == "1":
            out = frame(out)
        elif query.get("enable_http_compression", "1") == "1":
            out, encoding = encode(out, self.headers.get("Accept-Encoding", ""))
            if encoding:
                headers["Content_Encoding"] = encoding
        self.answer(200, out, **headers)

    def user(self, query):
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            return base64.b64decode(credentials).decode().partition(":")[0]
        return self.headers.get("X-ClickHouse-User") or query.get("user")

    def answer_error(self, error, query_id):
        text = str(error)
        if "Code:" in text:
            text = text[text.find("Code:") :].strip()
        else:
            text = f"Code: 1002. DB::Exception: {type(error).__name__}: {text} (UNKNOWN_EXCEPTION)"
        number = re.match(r"Code: (\d+)", text)
        code = int(number.group(1)) if number else 1002
        print(f"{self.command} {query_id}: {text}", file=sys.stderr, flush=True)
        text = f"{text} (version {ENGINE.version} (official build))\n"
        self.answer(STATUS.get(code, 500), text.encode(), Content_Type="text/plain; charset=UTF-8",
                    X_ClickHouse_Exception_Code=str(code), X_ClickHouse_Query_Id=query_id)  # fmt: skip

    def read_body(self):
        """The whole body, or an error: a part of an upload must never reach the engine."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.read_exactly(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.read_exactly(size))
            if self.rfile.readline() != b"\r\n":
                raise ValueError("a chunk does not end where it says")
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(chunks)

    def read_exactly(self, size):
        data = self.rfile.read(size) if size else b""
        if len(data) != size:
            raise ValueError(f"{len(data)} of {size} bytes came")
        return data

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *args):
        """Logs nothing here: failed requests are logged above."""


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size, allow_reuse_address = True, 512, True

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # HTTPServer would add a name look-up

    def handle_error(self, *args):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*args)


def main():
    global ENGINE
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True)
    parser.add_argument("--spool", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    server = Server((args.host, args.port), Handler)  # before the engine, so that a taken port fails immediately
    shutil.rmtree(args.spool, ignore_errors=True)  # files of a killed process
    os.makedirs(args.spool)
    ENGINE = Engine(args.path, args.spool)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"clickhouse_http: ready: ClickHouse {ENGINE.version} on {args.path}", flush=True)
    server.serve_forever(poll_interval=0.02)
    ENGINE.keep.close()


if __name__ == "__main__":
    main()
