"""Books each new account once. It reads in its own time: what is opened while it is away waits in the mesh."""

import asyncio
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nats
from nats.errors import TimeoutError as NothingCame


class Book:
    """Accounts and their deposits, on disk: an event may come a second time, and is booked once."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a+")
        self.file.seek(0)
        self.deposits = {entry["id"]: entry["deposit"] for entry in map(json.loads, self.file)}

    def enter(self, account: dict) -> None:
        if account["id"] not in self.deposits:
            self.file.write(json.dumps({"id": account["id"], "deposit": account["deposit"]}) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())
            self.deposits[account["id"]] = account["deposit"]

    def seen(self) -> dict:
        deposits = self.deposits.copy()
        return {"accounts": list(deposits), "balance": sum(deposits.values())}


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    book = Book(Path(os.environ.get("DATA", "/data"), "accounts"))
    serve(book)

    # The sidecar has the credentials.
    url = os.environ.get("NATS_URL", "nats://localhost:4222")
    mesh = await nats.connect(url, name="ledger", max_reconnect_attempts=-1)
    # What the Subscription says in its status.
    place = await mesh.jetstream().pull_subscribe_bind(os.environ["CONSUMER"], stream=os.environ["STREAM"])
    while not (stopping.is_set() or mesh.is_closed):
        try:
            events = await place.fetch(100, timeout=1)
        except NothingCame:
            continue
        except nats.errors.Error as error:  # the mesh is away
            print("nothing can be read:", error)
            await asyncio.sleep(1)
            continue
        for event in events:
            try:
                book.enter(json.loads(event.data))
            except (ValueError, TypeError, KeyError):
                await event.term()  # no account: the mesh makes it a dead letter
            else:
                await event.ack()  # only now: what is not acknowledged comes again
    await mesh.close()


def serve(book: Book) -> None:
    class Seen(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/seen"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(book.seen() if found else {}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Seen)
    threading.Thread(target=server.serve_forever, daemon=True).start()


asyncio.run(main())
