"""What every Link promises. The same tests run over memory and over a real broker, in MQTT 5 and in 3.1.1."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count

import pytest

from wire_contract.errors import LinkError, PayloadTooLarge
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event, Link, Will
from wire_contract.link.traffic import Traffic

PATIENCE_SECONDS = 60.0
"""Only a failing test waits so long."""
UP = "fedkd/v1/t/update/0/"
NOBODYS = "nobody/listens"
_SYNCS = count()


class World(ABC):
    """A broker and its faults."""

    bounds_unacknowledged = True
    """Whether the broker keeps the client's Receive Maximum. 3.1.1 has none; mosquitto 2.0.11 keeps it only as long
    as nothing is acknowledged."""

    @abstractmethod
    def link(self, client_id: str, *subscriptions: str, will: Will | None = None, **settings: int) -> Link: ...

    @abstractmethod
    def cut(self, client_id: str) -> None:
        """The connection is lost."""

    @abstractmethod
    def stop(self, *, lose_state: bool) -> None: ...

    @abstractmethod
    def start(self) -> None: ...


def gather(link: Link, enough: Callable[[list[Event]], bool], *, ack: bool = True, count: int = 100) -> list[Event]:
    """Events until there are enough; fails rather than waits for ever."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not enough(events):
        assert time.monotonic() < deadline, f"still waiting after {events}"
        for event in link.receive(count=count, timeout_seconds=0.2):
            events.append(event)
            if ack and isinstance(event, Delivery):
                link.ack(event)
    return events


def deliveries(events: Sequence[Event]) -> list[Delivery]:
    return [event for event in events if isinstance(event, Delivery)]


def messages(link: Link, number: int, *, ack: bool = True) -> list[Delivery]:
    return deliveries(gather(link, lambda events: len(deliveries(events)) >= number, ack=ack))


def connection(link: Link, *, ack: bool = True) -> list[Event]:
    """Events up to the next Connected, and what came with it."""
    return gather(link, lambda events: any(isinstance(event, Connected) for event in events), ack=ack)


def listening(link: Link, topic: str = UP + "sync") -> list[Event]:
    """Events until a message of its own comes back: a Connected does not say that the broker knows the subscription.

    Its acknowledgement has then reached the broker, so that no cut brings it again.
    """
    payload = b"s%03d" % (next(_SYNCS) % 1_000)
    link.publish(topic, payload)
    events = gather(link, lambda events: any(delivery.payload == payload for delivery in deliveries(events)))
    assert link.publish(NOBODYS, b"").wait(PATIENCE_SECONDS)  # goes the same way, after the acknowledgement
    return events


def publish(link: Link, *numbers: int, retain: bool = False) -> None:
    """…and waits until the broker has them."""
    sent = [link.publish(f"{UP}{number}", b"%d" % number, retain=retain) for number in numbers]
    assert all(publication.wait(PATIENCE_SECONDS) for publication in sent)


class LinkContract:
    """A subclass gives the fixture `world`."""

    def test_what_is_published_meanwhile_waits_for_a_durable_session(self, world: World) -> None:
        aggregator, device = world.link("aggregator", UP + "+"), world.link("device")
        listening(aggregator)
        aggregator.close()
        publish(device, 1, 2, 3)
        again = world.link("aggregator", UP + "+")
        events = gather(again, lambda events: len(deliveries(events)) == 3)
        assert [event.session_present for event in events if isinstance(event, Connected)] == [True]
        assert [delivery.payload for delivery in deliveries(events)] == [b"1", b"2", b"3"]
        assert not any(delivery.retained for delivery in deliveries(events))

    def test_what_is_not_acknowledged_comes_again_and_says_so(self, world: World) -> None:
        aggregator, device = world.link("aggregator", UP + "+"), world.link("device")
        listening(aggregator)
        publish(device, 1, 2)
        first = messages(aggregator, 2, ack=False)
        aggregator.ack(first[0])
        publish(aggregator, 3)  # goes the same way: the acknowledgement has reached the broker before it
        messages(aggregator, 1, ack=False)
        world.cut("aggregator")
        second = messages(aggregator, 2)
        assert [(delivery.payload, delivery.duplicate) for delivery in second] == [(b"2", True), (b"3", True)]
        assert second[0].epoch == first[0].epoch + 1

    def test_what_was_acknowledged_never_comes_again(self, world: World) -> None:
        aggregator, device = world.link("aggregator", UP + "+"), world.link("device")
        listening(aggregator)
        publish(device, 1, 2)
        messages(aggregator, 2)
        publish(aggregator, 3)
        aggregator.close()
        again = world.link("aggregator", UP + "+")
        publish(device, 4)
        events = gather(again, lambda events: any(delivery.payload == b"4" for delivery in deliveries(events)))
        assert [delivery.payload for delivery in deliveries(events)] == [b"3", b"4"]

    def test_a_late_acknowledgement_of_an_older_connection_does_nothing(self, world: World) -> None:
        aggregator, device = world.link("aggregator", UP + "+"), world.link("device")
        listening(aggregator)
        publish(device, 1)
        (late,) = messages(aggregator, 1, ack=False)
        world.cut("aggregator")
        (again,) = messages(aggregator, 1, ack=False)
        assert again.mid == late.mid, "or the test shows nothing"
        aggregator.ack(late)
        publish(aggregator, 2)
        messages(aggregator, 1, ack=False)
        world.cut("aggregator")
        assert [delivery.payload for delivery in messages(aggregator, 2)] == [b"1", b"2"]

    def test_it_subscribes_again_when_the_broker_has_lost_its_state(self, world: World) -> None:
        aggregator, device = world.link("aggregator", UP + "+"), world.link("device")
        connection(aggregator)
        connection(device)
        world.stop(lose_state=True)
        world.start()
        events = connection(aggregator)
        assert any(isinstance(event, Disconnected) and not event.refused for event in events)
        assert [event.session_present for event in events if isinstance(event, Connected)] == [False]
        listening(aggregator)
        connection(device)
        publish(device, 1)
        assert messages(aggregator, 1)[0].payload == b"1"

    def test_a_broker_that_lost_its_state_has_no_retained_messages(self, world: World) -> None:
        publisher = world.link("publisher")
        publish(publisher, 1, retain=True)
        world.stop(lose_state=True)
        world.start()
        late = world.link("late", UP + "+")
        assert [delivery.topic for delivery in deliveries(listening(late))] == [UP + "sync"]

    def test_it_keeps_what_is_published_while_the_broker_is_away(self, world: World) -> None:
        device = world.link("device", outgoing_messages_max=3)
        connection(device)
        world.stop(lose_state=False)
        gather(device, lambda events: any(isinstance(event, Disconnected) for event in events))
        sent = [device.publish(f"{UP}{number}", b"%d" % number) for number in range(3)]
        with pytest.raises(LinkError, match="3 messages already wait"):
            device.publish(f"{UP}3", b"")
        world.start()
        connection(device)
        assert all(publication.wait(PATIENCE_SECONDS) for publication in sent)

    def test_a_retained_message_reaches_a_late_joiner_until_it_is_deleted(self, world: World) -> None:
        publisher = world.link("publisher")
        publish(publisher, 1, 2, retain=True)
        early = world.link("early", UP + "+")
        assert {delivery.payload: delivery.retained for delivery in messages(early, 2)} == {b"1": True, b"2": True}
        assert publisher.publish(f"{UP}1", b"", retain=True).wait(PATIENCE_SECONDS)
        assert [(d.payload, d.retained) for d in messages(early, 1)] == [(b"", False)]
        late = world.link("late", UP + "+")
        assert [delivery.payload for delivery in messages(late, 1)] == [b"2"]

    def test_who_subscribes_gets_what_is_retained_and_what_comes(self, world: World) -> None:
        writer, reader = world.link("writer"), world.link("reader", UP + "sync")
        publish(writer, 1, 2, retain=True)
        listening(reader)
        reader.subscribe(UP + "1")
        (first,) = messages(reader, 1)
        assert (first.payload, first.retained) == (b"1", True)
        publish(writer, 1, 2)
        (second,) = messages(reader, 1)
        assert (second.topic, second.payload, second.retained) == (UP + "1", b"1", False)
        reader.subscribe(UP + "1")
        (again,) = messages(reader, 1)
        assert again.retained, "whoever asks again is sent it again"

    def test_what_is_asked_for_at_qos_0_comes_past_a_backlog_and_over_reconnections(self, world: World) -> None:
        def heard() -> Delivery:
            """The next message of that topic, nothing being acknowledged."""
            events = gather(reader, lambda events: any(one.topic == UP + "1" for one in deliveries(events)), ack=False)
            return next(one for one in deliveries(events) if one.topic == UP + "1")

        writer, reader = world.link("writer"), world.link("reader", UP + "sync", receive_maximum=1)
        publish(writer, 1, retain=True)
        listening(reader)
        for payload in (b"not acknowledged", b"behind it"):
            assert writer.publish(UP + "sync", payload).wait(PATIENCE_SECONDS)
        reader.subscribe(UP + "1", qos=0)
        first = heard()
        assert (first.payload, first.retained, first.mid) == (b"1", True, 0)
        publish(writer, 1)
        assert not heard().retained
        world.cut("reader")
        assert heard().retained, "and what is retained comes again"

    def test_who_unsubscribes_hears_no_more(self, world: World) -> None:
        writer, reader = world.link("writer"), world.link("reader", UP + "sync")
        listening(reader)
        for number in (1, 2, 3):
            reader.subscribe(f"{UP}{number}")
        listening(reader)
        reader.unsubscribe(UP + "1")
        listening(reader)
        publish(writer, 1, 2)
        assert [delivery.payload for delivery in messages(reader, 1)] == [b"2"]
        world.cut("reader")  # the acknowledgement of 2 may not have gone out: then 2 comes again
        connection(reader)
        publish(writer, 1, 3)
        events = gather(reader, lambda events: any(delivery.payload == b"3" for delivery in deliveries(events)))
        assert b"1" not in {delivery.payload for delivery in deliveries(events)}, "nor after a reconnection"

    def test_what_was_subscribed_to_later_outlives_a_broker_without_memory(self, world: World) -> None:
        writer, reader = world.link("writer"), world.link("reader", UP + "sync")
        listening(reader)
        reader.subscribe(UP + "1")
        listening(reader)
        world.stop(lose_state=True)
        world.start()
        publish(writer, 1, retain=True)
        events = gather(reader, lambda events: any(delivery.payload == b"1" for delivery in deliveries(events)))
        assert any(isinstance(event, Connected) for event in events)

    def test_what_changes_while_there_is_no_broker_is_told_to_it_later(self, world: World) -> None:
        writer, reader = world.link("writer"), world.link("reader", UP + "sync")
        listening(reader)
        reader.subscribe(UP + "1")
        listening(reader)
        world.stop(lose_state=False)
        gather(reader, lambda events: any(isinstance(event, Disconnected) for event in events))
        reader.unsubscribe(UP + "1")
        reader.subscribe(UP + "2")
        reader.subscribe(UP + "3")
        reader.unsubscribe(UP + "3")
        world.start()
        gather(reader, lambda events: any(isinstance(event, Connected) for event in events))
        listening(reader)
        publish(writer, 1, 3, 2)
        assert [delivery.payload for delivery in messages(reader, 1)] == [b"2"]

    @pytest.mark.parametrize("topic_filter", ["", "a+", "#/a", "x" * 65_536])
    def test_a_filter_that_cannot_be_is_refused(self, world: World, topic_filter: str) -> None:
        with pytest.raises(LinkError):
            world.link("device").subscribe(topic_filter)

    def test_the_will_is_published_when_the_line_is_cut_but_not_after_a_goodbye(self, world: World) -> None:
        watcher = world.link("watcher", "presence/+")
        listening(watcher, "presence/sync")
        polite = world.link("polite", will=Will("presence/polite", b"offline"))
        connection(polite)
        lost = world.link("lost", will=Will("presence/lost", b"offline"))
        connection(lost)
        polite.close()
        world.cut("lost")
        assert [(d.topic, d.payload) for d in messages(watcher, 1)] == [("presence/lost", b"offline")]
        late = world.link("late", "presence/+")
        assert [(d.topic, d.retained) for d in messages(late, 1)] == [("presence/lost", True)]

    def test_what_the_broker_would_refuse_is_not_sent(self, world: World) -> None:
        device = world.link("device")
        with pytest.raises(PayloadTooLarge) as caught:
            device.publish(f"{UP}1", bytes(1 << 20))
        assert caught.value.size_bytes > caught.value.limit_bytes
        publish(device, 1)

    @pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0", "x" * 65_536])
    def test_a_topic_that_cannot_be_is_refused(self, world: World, topic: str) -> None:
        with pytest.raises(LinkError):
            world.link("device").publish(topic, b"")

    def test_a_slow_user_loses_nothing(self, world: World) -> None:
        aggregator, device = world.link("aggregator", UP + "+", receive_maximum=5), world.link("device")
        listening(aggregator)
        publish(device, *range(100))
        held: list[Delivery] = []
        got: list[Delivery] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(got) < 100:
            assert time.monotonic() < deadline
            batch = aggregator.receive(count=3, timeout_seconds=0.2)
            assert len(batch) <= 3
            held += deliveries(batch)
            got += deliveries(batch)
            assert not world.bounds_unacknowledged or len(held) <= 5
            if len(held) >= 5 or not batch:
                for delivery in held:
                    aggregator.ack(delivery)
                held.clear()
        assert [int(delivery.payload) for delivery in got] == list(range(100))

    def test_a_closed_link_says_so(self, world: World) -> None:
        link = world.link("device")
        connection(link)  # `close` waits for a publication, but not as long as a slow machine may take to connect
        publication = link.publish(f"{UP}1", b"1")
        link.close()
        link.close()
        assert publication.wait(0)
        with pytest.raises(LinkError, match="closed"):
            link.publish(f"{UP}1", b"")
        with pytest.raises(LinkError, match="closed"):
            link.receive(count=1, timeout_seconds=0)
        for change in (link.subscribe, link.unsubscribe):
            with pytest.raises(LinkError, match="closed"):
                change(UP)

    def test_it_counts_what_it_carries(self, world: World) -> None:
        aggregator, device = world.link("aggregator", UP + "+"), world.link("device")
        listening(aggregator)
        publish(device, 7, 10)
        messages(aggregator, 2)
        device.close()
        assert aggregator.traffic == Traffic(messages_in=3, bytes_in=7, messages_out=2, bytes_out=4)  # type: ignore[attr-defined]
        assert device.traffic == Traffic(messages_out=2, bytes_out=3)  # type: ignore[attr-defined]
