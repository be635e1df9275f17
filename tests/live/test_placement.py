"""Where containers are placed, whatever they take and whatever is said to them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from migrate.live.placement import Demand, Disk, Offer, Placed, Room, place

HOSTS = ("host2", "host3", "host4")
Offers = dict[tuple[str, str], Offer]

demands = st.lists(
    st.builds(
        Demand,
        container=st.sampled_from([f"c{number}" for number in range(8)]),
        memory_bytes=st.integers(1, 40),
        disk_bytes=st.integers(1, 40),
        files=st.integers(0, 40),
    ),
    unique_by=lambda each: each.container,
    max_size=8,
)
disks = st.builds(Disk, free_bytes=st.integers(0, 100), files=st.integers(-1, 60))
rooms = st.dictionaries(
    st.sampled_from(HOSTS),
    st.builds(
        Room,
        memory_bytes=st.integers(0, 100),
        disks=st.fixed_dictionaries({"a": disks, "b": disks}),
    ),
)
offers = st.dictionaries(
    st.tuples(st.sampled_from([f"c{number}" for number in range(8)]), st.sampled_from(HOSTS)),
    st.builds(
        Offer,
        disk=st.sampled_from(["a", "b"]),
        refusal=st.sampled_from(["", "", "no"]),
        warnings=st.integers(0, 2),
    ),
)


@given(demands, rooms, offers)
def test_every_container_is_placed_once_and_only_where_it_may(
    wanted: list[Demand], there: dict[str, Room], said: Offers
) -> None:
    found = place(wanted, there, said)
    assert Counter(each.container for each in found) == Counter(each.container for each in wanted)
    for each in found:
        if each.host:
            assert not said[each.container, each.host].refusal
        else:
            assert each.reason


@given(demands, rooms, offers)
def test_no_host_gets_more_than_fits_and_who_goes_nowhere_fits_nowhere(
    wanted: list[Demand], there: dict[str, Room], said: Offers
) -> None:
    found = place(wanted, there, said)
    by_name = {each.container: each for each in wanted}
    left = {host: (room.memory_bytes, dict(room.disks)) for host, room in there.items()}
    for each in found:
        if each.host:
            demand, (memory, has) = by_name[each.container], left[each.host]
            name = said[each.container, each.host].disk
            has[name] = has[name].without(demand)
            left[each.host] = (memory - demand.memory_bytes, has)
    for memory, has in left.values():
        assert memory >= 0
        assert all(disk.free_bytes >= 0 and disk.files >= -1 for disk in has.values())
    for each in found:
        for host, (memory, has) in left.items():
            offer = said.get((each.container, host))
            if each.host or offer is None or offer.refusal:
                continue
            demand = by_name[each.container]
            assert demand.memory_bytes > memory or not has[offer.disk].fits(demand)


@given(demands, rooms, offers, st.randoms())
def test_the_order_of_what_is_given_does_not_matter(
    wanted: list[Demand], there: dict[str, Room], said: Offers, random: object
) -> None:
    shuffled = list(wanted)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's random.Random
    assert place(wanted, there, said) == place(shuffled, dict(reversed(there.items())), said)


def demand(container: str, memory: int) -> Demand:
    return Demand(container=container, memory_bytes=memory, disk_bytes=1, files=1)


def room(memory: int) -> Room:
    return Room(memory_bytes=memory, disks={"a": Disk(free_bytes=100)})


def test_the_load_is_shared() -> None:
    hosts = {"host2": room(100), "host3": room(100)}
    wanted = [demand("a", 10), demand("b", 10), demand("c", 15)]
    said = {(each.container, host): Offer(disk="a") for each in wanted for host in hosts}
    assert {each.container: each.host for each in place(wanted, hosts, said)} == {
        "c": "host2",
        "a": "host3",
        "b": "host3",
    }


def test_a_host_about_which_less_changes_is_preferred() -> None:
    said = {("a", "host2"): Offer(disk="a", warnings=2), ("a", "host3"): Offer(disk="a")}
    assert place([demand("a", 1)], {"host2": room(100), "host3": room(9)}, said) == [
        Placed(container="a", host="host3")
    ]


def test_who_is_refused_everywhere_is_told_why() -> None:
    said = {("a", host): Offer(disk="a", refusal=f"{host} is old") for host in HOSTS[:2]}
    (found,) = place([demand("a", 1)], {"host2": room(9), "host3": room(9)}, said)
    assert found.reason == "host2 is old (and 1 more)"


def test_who_finds_no_room_is_told_so() -> None:
    said = {("a", "host2"): Offer(disk="a"), ("b", "host2"): Offer(disk="a")}
    found = place([demand("a", 6), demand("b", 5)], {"host2": room(9)}, said)
    assert found[0].host == "host2"
    assert found[1].reason == "the hosts that would take it have no room left beside the others"
