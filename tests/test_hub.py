"""The Hub is asked once; where it does not answer, its libraries are told to stay offline."""

from __future__ import annotations

import datasets.config
import pytest
from huggingface_hub import constants

from vfunc.hub import TIMEOUT, hub_within_reach

SWITCHES = (constants, datasets.config)


@pytest.fixture
def asked(monkeypatch):
    """Requests to a Hub that answers, or not; nothing of the environment counts."""
    made = []

    class Session:
        answers = True

        def head(self, url, timeout):
            made.append((url, timeout))
            if not Session.answers:
                raise ConnectionError("no network")

    for switch in SWITCHES:
        monkeypatch.setattr(switch, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    return Session, made


def offline():
    return [switch.HF_HUB_OFFLINE for switch in SWITCHES]


def test_a_hub_that_answers_is_used(asked):
    with hub_within_reach() as reachable:
        assert reachable and offline() == [False, False]
    assert asked[1] == [(constants.ENDPOINT, TIMEOUT)]


def test_without_a_network_both_libraries_stay_offline_for_the_while(asked):
    asked[0].answers = False
    with pytest.raises(KeyError), hub_within_reach() as reachable:
        assert not reachable and offline() == [True, True]
        raise KeyError
    assert offline() == [False, False] and len(asked[1]) == 1


@pytest.mark.parametrize("switch", SWITCHES, ids=["hub", "datasets"])
def test_who_asked_to_stay_offline_is_not_asked_again(asked, monkeypatch, switch):
    monkeypatch.setattr(switch, "HF_HUB_OFFLINE", True)
    before = offline()
    with hub_within_reach() as reachable:
        assert not reachable and offline() == [True, True]
    assert offline() == before and not asked[1]
