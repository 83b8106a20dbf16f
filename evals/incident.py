"""What an incident is: how it comes about, who asks what about it, and what the answer must say."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an application's process does without
    from evals.upstream import Upstream


@dataclass(frozen=True)
class Call:
    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Beside the name of the application."""


@dataclass(frozen=True)
class Fact:
    """Something that an answer says: words that stand together in one of its lines, in any order.
    With the word `verdict` among them, that is the line of a diagnosis that decides.

    `a|b` is either of them. A word is met as a whole, in upper or lower case: `3.1.0` is neither
    in `3.1.05` nor in `13.1.0`, `worker-1` not in `worker-12`.
    """

    meaning: str
    words: Sequence[str]

    def __init__(self, meaning: str, *words: str) -> None:
        object.__setattr__(self, "meaning", meaning)
        object.__setattr__(self, "words", words)

    def is_in(self, text: str) -> bool:
        patterns = [_pattern(word) for word in self.words]
        return any(all(p.search(line) for p in patterns) for line in text.splitlines())


@dataclass(frozen=True)
class Verdict:
    """What is right to say, and what would lead astray."""

    facts: Sequence[Fact]
    forbidden: Sequence[Fact]

    def faults_of(self, text: str) -> list[str]:
        """Why the text is not right; nothing if it is."""
        return [
            *(f"does not say {fact.meaning}" for fact in self.facts if not fact.is_in(text)),
            *(f"says {fact.meaning}" for fact in self.forbidden if fact.is_in(text)),
        ]


@dataclass(frozen=True)
class Sign:
    """What a plain tool shows of the planted cause: without it the incident did not happen."""

    call: Call
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Incident:
    name: str
    application_name: str
    question: str
    """What a person would ask at night."""
    seed: "Callable[[Upstream], Awaitable[None]]"
    signs: Sequence[Sign]
    first_call: Call
    """What that question leads to."""
    verdict: Verdict


def _pattern(word: str) -> re.Pattern[str]:
    either = "|".join(re.escape(each).replace(r"\ ", r"\s+") for each in word.split("|"))
    return re.compile(rf"(?<![\w-])(?<!\d\.)(?:{either})(?![\w-])(?!\.\d)", re.IGNORECASE)
