"""Which router may change roles, and whose word a worker takes."""

from __future__ import annotations

import pytest

from baton.deploy.worker.role import RoleKeeper
from baton.protocol.ids import Identity
from baton.protocol.records import SetRole
from baton.router.planner.leader import Leadership, Word

A, B, C = Identity("a", 1), Identity("b", 2), Identity("c", 3)


def word(*routers: Identity, term: int = 0, controller: str = "") -> Word:
    return Word(routers, term, controller)


def test_alone_it_leads() -> None:
    alone = Leadership(B)
    assert alone.hear([])
    assert alone.term == 1
    assert alone.hear([word(B, term=1, controller=alone.name)])
    assert alone.term == 1


def test_the_lowest_id_leads_and_all_know() -> None:
    first, second = Leadership(A), Leadership(B)
    words = [word(B), word(A, B), word(B, C)]
    assert first.hear(words)
    assert not second.hear(words)
    assert second.leader == A
    assert second.routers == (A, B, C)


def test_when_the_leader_is_gone_the_next_leads_in_a_later_term() -> None:
    second = Leadership(B)
    assert not second.hear([word(A, B, term=4, controller="a/1")])
    assert second.hear([word(B, term=4, controller="a/1")])
    assert second.term == 5
    # It is back: the other one knows as soon as a worker serves both.
    first = Leadership(Identity("a", 9))
    words = [word(B, first.me, term=5, controller=second.name)]
    assert not second.hear(words)
    assert first.hear(words)
    assert first.term == 6


def test_routers_of_one_name_do_not_both_lead() -> None:
    one, other = Leadership(Identity("router-0", 5)), Leadership(Identity("router-0", 8))
    words = [word(one.me, other.me)]
    assert [one.hear(words), other.hear(words)] == [True, False]


def test_a_leader_that_finds_another_in_its_term_takes_the_next() -> None:
    leader = Leadership(A)
    leader.hear([])
    assert leader.term == 1
    leader.hear([word(A, term=1, controller="z/1")])
    assert leader.term == 2
    leader.hear([word(A, term=7, controller="z/1")])
    assert leader.term == 8


def order(role: str, term: int, controller: str = "") -> SetRole:
    return SetRole(role=role, term=term, controller=controller)


def test_a_worker_refuses_older_terms_and_a_second_controller_in_one() -> None:
    keeper = RoleKeeper("decode")
    assert keeper.take(order("prefill", 3, "a/1"), A)
    assert not keeper.take(order("decode", 2, "b/2"), B)
    assert not keeper.take(order("decode", 3, "b/2"), B)
    assert keeper.role == "prefill"
    assert keeper.take(order("mixed", 3, "a/1"), A)
    assert keeper.take(order("decode", 4, "b/2"), B)
    assert not keeper.take(order("mixed", 3, "a/1"), A)
    assert (keeper.role, keeper.term, keeper.controller) == ("decode", 4, "b/2")


def test_what_a_person_chose_stays_until_it_is_taken_back() -> None:
    keeper = RoleKeeper("decode")
    assert keeper.take(order("decode", 2, "a/1"), A)
    assert keeper.take(order("prefill", 2), B)
    assert keeper.pinned
    assert keeper.controller == "a/1"
    assert not keeper.take(order("decode", 2, "a/1"), A)
    assert not keeper.take(order("decode", 9, "b/1"), B)
    assert not keeper.take(order("mixed", 1), B)  # it does not know the term in force
    assert keeper.take(order("auto", 2), B)
    assert (keeper.role, keeper.pinned) == ("prefill", False)
    assert keeper.take(order("decode", 2, "a/1"), A)


@pytest.mark.parametrize("bad", [order("boss", 9), order("auto", 9, "a/1"), order("", 9)])
def test_what_is_no_role_changes_nothing(bad: SetRole) -> None:
    keeper = RoleKeeper("mixed")
    assert not keeper.take(bad, A)
    assert (keeper.role, keeper.term, keeper.pinned) == ("mixed", 0, False)
