"""A TCP proxy that breaks the line between two processes: cut it, or let it fall silent as a partition does."""

import asyncio
import contextlib
import threading


class FaultProxy:
    """Listens on 127.0.0.1 and forwards to a port there. Used as a context.

    `fault` is "" (forward), "silent" (accept everything and pass nothing on, as a network that drops packets: what
    was on its way arrives when it heals), or "cut" (reset every connection, and refuse new ones).
    """

    def __init__(self, target):
        self.target = target
        self.port = 0
        self._fault = ""
        self._loop = asyncio.new_event_loop()
        self._healed = asyncio.Event()
        self._healed.set()
        self._lines = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self):
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def fault(self):
        """What the line suffers from."""
        return self._fault

    @fault.setter
    def fault(self, fault):
        self._call(self._set(fault))

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _set(self, fault):
        self._fault = fault
        if fault == "silent":
            self._healed.clear()
        else:
            self._healed.set()
        if fault == "cut":
            for task in self._lines:
                task.cancel()

    async def _stop(self):
        self._server.close()
        tasks = list(self._lines)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._lines.add(task)
        try:
            if self._fault == "cut":
                return
            await self._healed.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                pumps = [
                    asyncio.ensure_future(self._pump(reader, back)),
                    asyncio.ensure_future(self._pump(there, writer)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._lines.discard(task)

    async def _pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._healed.wait()
                writer.write(data)
                await writer.drain()
