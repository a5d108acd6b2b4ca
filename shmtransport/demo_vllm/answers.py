"""Answers of the model, in a form in which equal means bit by bit."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """What one greedy request got."""

    token_ids: list[int]
    logprobs: list[dict[str, str]]
    """Of each step, what vLLM lists: tokens with their logprob as `float.hex`."""

    @classmethod
    def of(cls, output: Any) -> Self:
        """From what ``LLM.generate`` returns for one prompt."""
        completion = output.outputs[0]
        steps = completion.logprobs or []
        return cls(
            token_ids=list(completion.token_ids),
            logprobs=[{str(token): value.logprob.hex() for token, value in step.items()} for step in steps],
        )

    def distance(self, other: Self) -> float:
        """The largest difference of a token's logprob, over the steps before which both said the same."""
        found = 0.0
        for step, (ours, theirs) in enumerate(zip(self.logprobs, other.logprobs, strict=False)):
            if self.token_ids[:step] != other.token_ids[:step]:
                break
            both = ours.keys() & theirs.keys()
            found = max([found, *(abs(float.fromhex(ours[token]) - float.fromhex(theirs[token])) for token in both)])
        return found


class Compared(msgspec.Struct, frozen=True):
    """Answers to the same images, and to the same with the last one replaced."""

    answer: Answer
    replaced: Answer


def identical(served: Sequence[Mapping[int, Compared]]) -> bool:
    """Whether every vLLM gave the same answers, by number of images, and gave some."""
    says_something = all(compared.answer.logprobs for answers in served for compared in answers.values())
    return says_something and all(one == other for one, other in pairwise(served))


def control_differs(served: Sequence[Mapping[int, Compared]]) -> bool:
    """Whether in each of them one other image moves a logprob by more than 1e-3: the model does look."""
    return all(
        compared.answer.distance(compared.replaced) > 1e-3 for answers in served for compared in answers.values()
    )
