"""The way to Redis: whether it is there, questions with answers, and sentences for what goes wrong."""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from service.core.errors import StateUnavailable

log = structlog.get_logger(__name__)

PREFIX: Final = "knative-diffusion:1:"
TIMEOUT: Final = 2.0
"""Seconds for one exchange with Redis."""
CONNECTIONS: Final = 16
REPEAT_SECONDS: Final = 60.0
"""The same sentence is logged at most this often."""

_REFUSALS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)

Query: TypeAlias = tuple[str | bytes | int | float, ...]
"""A command of Redis with its arguments."""


class Link:
    """A pool of connections to one server, and what is known of its health.

    While the server is away, questions fail at once instead of each waiting for a timeout; :meth:`keep_looking` finds
    it again.
    """

    def __init__(self, url: str, on_error: Callable[[str], object], on_back: Callable[[], object]) -> None:
        """``on_error`` is told of each failure: ``unreachable``, ``refused`` or ``garbage``; ``on_back`` when the
        server was found. Raises :class:`ValueError` for a URL that is none.
        """
        # One attempt more for a pooled connection that has died meanwhile; patience is up to the caller.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 1),
            health_check_interval=10,
            protocol=2,
        )
        self._redis = Redis.from_pool(pool)
        scheme, separator, rest = url.partition("://")
        self._where = scheme + separator + rest.rpartition("@")[2].partition("?")[0]  # without a password
        self._on_error = on_error
        self._on_back = on_back
        self._said: OrderedDict[str, float] = OrderedDict()
        self.reachable = False
        """True while the server answers."""

    async def close(self) -> None:
        """Close the connections."""
        try:
            await self._redis.aclose()
        except (RedisError, OSError):
            log.debug("redis was gone before it was left", store=self._where)

    # --- its health ----------------------------------------------------------------------------------

    async def keep_looking(self) -> None:
        """Find the server again when it has gone; notice that it has gone while nobody asks."""
        while True:
            await asyncio.sleep((2.0 if self.reachable else 0.5) * random.uniform(0.8, 1.2))
            await self.look()

    async def look(self) -> None:
        """See whether the server answers."""
        try:
            await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)
            return
        if not self.reachable:
            self.reachable = True
            self._said.clear()
            log.info("state is reachable", store=self._where)
            self._on_back()

    def _lost(self, error: BaseException) -> None:
        """The server cannot be used: said once in the log, counted each time."""
        self.reachable = False
        if isinstance(error, _REFUSALS):
            self._on_error("refused")
            why = f"it refuses us ({error}): check user and password in SD_STATE_URL"
        else:
            self._on_error("unreachable")
            why = f"it cannot be reached ({str(error) or type(error).__name__})"
        self._say("state is not reachable", why)

    def _say(self, event: str, reason: str) -> None:
        """Log a sentence, unless it was logged a moment ago."""
        now = time.monotonic()
        if now - self._said.get(reason, float("-inf")) < REPEAT_SECONDS:
            return
        self._said[reason] = now
        while len(self._said) > 1000:
            self._said.popitem(last=False)
        log.error(event, store=self._where, reason=reason)

    # --- questions -----------------------------------------------------------------------------------

    async def ask(self, what: str, *queries: Query, atomic: bool = False) -> list[Any]:
        """The answers to ``queries``, sent together. Raises :class:`StateUnavailable`, which says that ``what`` is out
        of reach. An answer that is an error of this one query (a key of another type) is the error itself.
        """
        unavailable = StateUnavailable(
            f"{what} is kept in Redis, which is not there at the moment: try again in a moment."
        )
        if not self.reachable:
            raise unavailable
        try:
            async with asyncio.timeout(2 * TIMEOUT), self._redis.pipeline(transaction=atomic) as pipe:
                for query in queries:
                    pipe.execute_command(*query)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
        except ResponseError as error:  # of a transaction as a whole: it is the answer to each of its queries
            answers = [error] * len(queries)
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)
            raise unavailable from error
        for answer in answers:
            if isinstance(answer, _REFUSALS):
                self._lost(answer)
                raise unavailable from answer
        return answers

    async def change(self, what: str, *queries: Query, atomic: bool = False) -> list[Any]:
        """As :meth:`ask`, where each query must succeed: one that does not is a :class:`StateUnavailable` too."""
        answers = await self.ask(what, *queries, atomic=atomic)
        for query, answer in zip(queries, answers, strict=True):
            if isinstance(answer, Exception):
                self._on_error("refused")
                if isinstance(answer, OutOfMemoryError) or "maxmemory" in str(answer):
                    why = "Redis has no memory left; raise its maxmemory, or let it evict (volatile-ttl)"
                elif isinstance(answer, ReadOnlyError):
                    why = "Redis is a read-only replica; SD_STATE_URL must name the primary"
                else:
                    why = f"Redis refuses to change {query[1]!r} ({answer}); delete that key there"
                self._say("state was not changed", why)
                raise StateUnavailable(f"{what} could not be kept: {why}.") from answer
        return answers

    # --- what is in there ----------------------------------------------------------------------------

    def parsed(self, key: str, value: Any) -> Any:
        """JSON of Redis; None where there is none."""
        try:
            return None if value is None else orjson.loads(value)
        except ValueError as error:  # a value that is an error of the query is no JSON either
            self.garbage(key, value if isinstance(value, Exception) else error)
            return None

    def garbage(self, key: str, error: object) -> None:
        """What stands under ``key`` is not ours: said in the log, passed over and left where it is."""
        self._on_error("garbage")
        first = str(error).partition("\n")[0]
        self._say("state is not ours", f"{PREFIX}{key} is passed over: {first}")

    # --- messages ------------------------------------------------------------------------------------

    async def listen(self, channel: str, on_message: Callable[[bytes], None]) -> None:
        """Hand over what is published on ``channel``, for ever, through every loss of the connection."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(PREFIX + channel)
                    while True:
                        message = await subscription.get_message(timeout=5.0)
                        if message is not None:
                            on_message(message["data"])
            except (RedisError, OSError, TimeoutError):
                # Said by whoever asks for something; this only tries again.
                await asyncio.sleep(random.uniform(0.2, 0.6))
