"""amqtt's broker with fixes where version 0.12.1 violates MQTT 3.1.1. To be removed once amqtt is fixed.

- A connecting client was sent the retained messages of *all* clients' subscriptions instead of its own.
- While one client subscribed, another client that was connecting lost its connection, and a message in delivery was
  lost: amqtt awaits while it iterates over its subscriptions.
- A client that took over its own session (a second program with the same client id, or a reconnection that arrives
  before the old connection has ended) received nothing from then on: the end of the old connection marked the session
  as disconnected.
"""

from collections.abc import Iterator
from typing import Any

from amqtt.broker import Broker


class Subscriptions(dict[str, list[tuple[Any, int]]]):
    """Sessions by topic filter; iterates over a copy, so that entries may change meanwhile."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.keys()))

    def items(self) -> Any:
        return list(super().items())


class PatchedBroker(Broker):  # type: ignore[misc]  # amqtt has no types
    """amqtt's broker with the fixes above."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._subscriptions = Subscriptions()

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        if any(one is session for one, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _client_message_loop(self, client_session: Any, handler: Any) -> None:
        if not client_session.transitions.is_connected():  # the old connection has just ended
            client_session.transitions.connect()
        await super()._client_message_loop(client_session, handler)

    async def _handle_disconnect(self, client_session: Any, handler: Any, disconnect_waiter: Any) -> None:
        _, current = self._sessions.get(client_session.client_id, (None, handler))
        if current is handler:
            await super()._handle_disconnect(client_session, handler, disconnect_waiter)
        else:  # the session goes on over another connection
            await self._stop_handler(handler)
