"""What one listener hears, in which order and under which letters: drawn from the session's secret, without any state.

The same listener gets the same trials again on any machine and after any restart. Everything is drawn by sorting on
HMAC-SHA256, which no version of Python shuffles otherwise.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.session import REAL, Group, Session

#: As many stimuli as there are letters can stand side by side; nobody keeps more than a handful apart.
LABELS = string.ascii_uppercase
LONGEST_NAME = 80
#: One group in so many is heard twice; a session with fewer than `_FEWEST` groups repeats none.
_REPEATED, _FEWEST = 4, 3
_ID_DIGITS, _TOKEN_DIGITS = 16, 32
_COPY_DIGITS = 16
_COPY = re.compile(r"copy-([0-9a-f]{16})-[0-9a-f]{16}")


@dataclass(frozen=True)
class Shown:
    """A stimulus of a trial: the token by which it is asked for, the letter that the listener sees, and its source."""

    token: str
    label: str
    source: str


@dataclass(frozen=True)
class Trial:
    """One page: a group's stimuli in the order of their letters. `repeat`: the listener has had this group before."""

    id: str
    group: Group
    shown: tuple[Shown, ...]
    repeat: bool = False

    @property
    def preference(self) -> bool:
        """Whether it is asked which is best: where there is a choice."""
        return len(self.shown) > 1

    def of(self, token: str) -> Shown | None:
        """The stimulus of a token."""
        return next((shown for shown in self.shown if shown.token == token), None)


def trials_for(session: Session, key: str) -> list[Trial]:
    """The trials of a listener.

    A quarter of the groups, at least one of three or more, comes a second time with other letters, later and never
    right behind the first time. Where real clips stand alone, one sample of a system comes back alone, too: else to
    stand alone would give them away. Of first hearings each system comes first, second, ... as often as another, within
    one.

    Args:
        session: the session.
        key: of the listener (`listener_key`) or of an exported copy (`new_copy`).

    Returns:
        Trials whose ids and tokens tell neither a system nor a repeat to anybody without the session's secret.
    """
    groups = sorted(session.heard, key=lambda group: _draw(session, key, "order", group.id))
    sources = _orders(session, key, groups)
    placed = [(2.0 * place, group, sources[group.id], False) for place, group in enumerate(groups)]
    placed += [
        (_later(session, key, place, len(groups), groups[place]), groups[place], again, True)
        for place, again in _repeats(session, key, groups, sources)
    ]
    placed.sort(key=lambda item: item[0])
    return [_trial(session, key, group, order, repeat) for _, group, order, repeat in placed]


def listener_key(name: str) -> str:
    """The key of a listener, who is the same in whatever case the name is written.

    Raises:
        UserError: it is no name.
    """
    return hashlib.sha256(clean_name(name).casefold().encode()).hexdigest()[:32]


def clean_name(name: str) -> str:
    """A listener's name as it is kept.

    Raises:
        UserError: it is empty, too long, or holds characters that cannot be seen.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned:
        raise UserError("The listener has no name; write one.")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"The listener's name has {len(cleaned)} characters, and may have {LONGEST_NAME}; shorten it.")
    if not cleaned.isprintable():
        raise UserError("The listener's name holds characters that cannot be seen; write it anew.")
    return cleaned


def new_copy(session: Session, nonce: str) -> str:
    """The id of an exported copy, which `is_copy` knows again without any list.

    Args:
        session: the session.
        nonce: 16 random hexadecimal digits.
    """
    return f"copy-{nonce}-{_draw(session, nonce, 'copy')[:_COPY_DIGITS]}"


def is_copy(session: Session, copy: str) -> bool:
    """Whether `new_copy` of this session made the id."""
    found = _COPY.fullmatch(copy)
    return found is not None and hmac.compare_digest(new_copy(session, found[1]), copy)


def link_token(session: Session, use: str) -> str:
    """A secret that the server of this session shares with its pages, the same whenever it is started."""
    return _draw(session, "server", use)[:_TOKEN_DIGITS]


def _draw(session: Session, *what: str) -> str:
    """64 random hexadecimal digits that are always the same for the same words."""
    told = "\0".join(what)  # no word holds one
    return hmac.new(bytes.fromhex(session.secret), told.encode(), hashlib.sha256).hexdigest()


def _share(session: Session, *what: str) -> float:
    """A number from 0 to below 1, drawn."""
    return int(_draw(session, *what)[:13], 16) / 16.0**13


def _orders(session: Session, key: str, groups: Sequence[Group]) -> dict[str, list[str]]:
    """Group -> its sources in the order of their letters.

    The systems are turned on by one from group to group, which lets each come equally often in each place, and every
    second round they run backwards, so that none always follows another. Where a real clip comes is drawn.
    """
    systems = sorted((s.source for s in session.systems), key=lambda source: _draw(session, key, "system", source))
    orders = {group.id: [REAL] for group in groups}
    turned = [group for group in groups if any(group.of(source) is not None for source in systems)]
    turned.sort(key=lambda group: _draw(session, key, "turn", group.id))
    for number, group in enumerate(turned):
        rounds, turn = divmod(number, len(systems))
        order = systems[turn:] + systems[:turn]
        order = [source for source in (order[::-1] if rounds % 2 else order) if group.of(source) is not None]
        if group.of(REAL) is not None:
            order.insert(int(_share(session, key, "real", group.id) * (len(order) + 1)), REAL)
        orders[group.id] = order
    return orders


def _repeats(
    session: Session, key: str, groups: Sequence[Group], sources: dict[str, list[str]]
) -> list[tuple[int, list[str]]]:
    """Which groups come again, by their place, and their sources in the order of the letters then: each has another."""
    if len(groups) < _FEWEST:
        return []
    # Not the last one: nothing could stand between it and its repeat.
    places = [place for place, group in enumerate(groups[:-1]) if len(sources[group.id]) > 1]
    places.sort(key=lambda place: _draw(session, key, "repeat", groups[place].id))
    count = max(1, len(groups) // _REPEATED)
    repeats = []
    for place in places[:count]:
        order = sources[groups[place].id]
        repeats.append((place, order[1:] + order[:1]))
    if any(sources[group.id] == [REAL] for group in groups):
        repeats += [(place, sources[groups[place].id][1:2]) for place in places[count : count + 1]]
    return repeats


def _later(session: Session, key: str, place: int, count: int, group: Group) -> float:
    """Where the repeat of the group at `place` comes, on the scale on which group n stands at 2 n."""
    first, last = 2.0 * (place + 1), 2.0 * count
    return first + (last - first) * (0.001 + 0.998 * _share(session, key, "later", group.id))


def _trial(session: Session, key: str, group: Group, order: Sequence[str], repeat: bool) -> Trial:
    id_ = _draw(session, key, "trial", group.id, str(repeat))[:_ID_DIGITS]
    shown = tuple(
        Shown(_draw(session, key, "token", id_, source)[:_TOKEN_DIGITS], label, source)
        for label, source in zip(LABELS, order, strict=False)
    )
    return Trial(id_, group, shown, repeat)
