"""A running replica follows wishes beside its answers; none of them can take it down."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestrator.adapters.ray_serve.following import Followed, Follower
from orchestrator.spec import UserError
from tests.serving.http.test_lifecycle import until


class Loader:
    """Carries out wishes when it is let; refuses those that say so."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.carried_out: list[int] = []

    def __call__(self, wish: dict[str, Any]) -> None:
        self.may_go_on.wait()
        if wish.get("is_bad"):
            raise UserError("another shape")
        self.carried_out.append(wish["version"])


def test_the_first_wish_is_waited_for_and_its_failure_is_the_starts() -> None:
    loader = Loader()
    follower = Follower(loader)
    with pytest.raises(UserError, match="another shape"):
        follower.begin({"is_bad": True})
    assert follower.followed == Followed(None)
    follower.begin({"version": 1})
    assert (follower.followed, loader.carried_out) == (Followed({"version": 1}), [1])


def test_later_wishes_return_at_once_and_only_the_last_of_several_is_carried_out() -> None:
    loader = Loader()
    follower = Follower(loader)
    follower.begin({"version": 1})
    loader.may_go_on.clear()
    for version in (2, 3, 4):
        follower.follow({"version": version})
    assert follower.followed == Followed({"version": 1})
    loader.may_go_on.set()
    until(lambda: follower.followed == Followed({"version": 4}))
    assert loader.carried_out in ([1, 2, 4], [1, 4])


def test_a_wish_that_fails_is_said_and_the_next_one_is_followed() -> None:
    loader = Loader()
    follower = Follower(loader)
    follower.begin({"version": 1})
    follower.follow({"is_bad": True})
    until(lambda: follower.followed.wish == {"is_bad": True})
    assert "another shape" in str(follower.followed.error)
    follower.follow({"version": 1})
    until(lambda: follower.followed == Followed({"version": 1}))
    assert loader.carried_out == [1, 1]


def test_the_same_wish_again_changes_nothing() -> None:
    loader = Loader()
    follower = Follower(loader)
    follower.begin({"version": 1})
    follower.follow({"version": 1})  # Serve reconfigures for reasons of its own, too
    follower.follow({"version": 2})
    until(lambda: follower.followed == Followed({"version": 2}))
    assert loader.carried_out == [1, 2]
