"""Writers that know what every key may be, over HTTP, and the check of what they left: no acknowledged write may be missing, and nothing
may be there that was not written."""

import http.client
import threading
import time

KEYS = 500


class Writer(threading.Thread):
    """The only writer of its keys: what one may be is between the last value that was acknowledged and the last that was sent."""

    def __init__(self, number, addresses, password):
        """`addresses` gives those of the primaries, as (host, port), at any time."""
        super().__init__(daemon=True)
        self.number, self.addresses, self.stop = number, addresses, threading.Event()
        self.headers = {"Authorization": f"Bearer {password}"} if password else {}
        self.acknowledged, self.sent = {}, {}
        self.writes, self.failures, self.tries = 0, 0, number
        self.longest = 0.0  # without a write that was acknowledged, in seconds

    def put(self, connection, key, value):
        """The connection, if it can be used again, and whether it was acknowledged."""
        try:
            if connection is None:
                addresses = self.addresses()
                connection = http.client.HTTPConnection(*addresses[self.tries % len(addresses)], timeout=8)
            connection.request("PUT", f"/v1/kv/{key}", str(value), self.headers)
            response = connection.getresponse()
            response.read()
            return connection, response.status == 204
        except (OSError, http.client.HTTPException):
            self.tries += 1  # another primary, as a Service would choose
            return None, False

    def run(self):
        connection, value, last = None, 0, time.monotonic()
        while not self.stop.is_set():
            value += 1
            key = f"k{self.number}-{value % KEYS}"
            self.sent[key] = value
            connection, is_done = self.put(connection, key, value)
            if is_done:
                self.acknowledged[key] = value
                self.writes += 1
                self.longest = max(self.longest, time.monotonic() - last)
                last = time.monotonic()
            else:
                self.failures += 1
                time.sleep(0.02)


def stop(writers):
    for writer in writers:
        writer.stop.set()
    for writer in writers:
        writer.join()


def check(writers, get):
    """`get` gives the values of keys, as text."""
    expected = {key: (writer.acknowledged[key], writer.sent[key]) for writer in writers for key in writer.acknowledged}
    found = get(list(expected))
    assert len(found) == len(expected), f"{len(found)} answers for {len(expected)} keys"
    wrong = [(key, between, value) for (key, between), value in zip(expected.items(), found)
             if not value.isdigit() or not between[0] <= int(value) <= between[1]]
    assert not wrong, f"{len(wrong)} of {len(expected)} keys are wrong: {wrong[:5]}"
    writes, failures = sum(writer.writes for writer in writers), sum(writer.failures for writer in writers)
    assert writes > 1000, f"only {writes} writes"
    return (f"{writes} writes acknowledged on {len(expected)} keys, none lost; {failures} were refused or unanswered; "
            f"no writer waited longer than {max(writer.longest for writer in writers):.1f} s")
