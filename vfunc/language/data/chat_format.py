"""Writes a conversation as a prompt and a completion, by the tokenizer's chat template or plainly.

With a template (`apply_chat_template`) the prompt ends where the assistant begins to write, and the
completion is the answer with what the template closes it with, but for the end-of-text token, which
every sequence gets. Templates may ask for today's date: they get a fixed one, so that a run that is
resumed reads what it read.

Without one the turns stand below each other, each text ended by a newline: a question and an answer
are what a record of prompt and completion would be.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from vfunc.language.data.chat import Conversation, Turn
from vfunc.typecheck import typed

ChatFormat = Callable[[Conversation], tuple[str, str] | str]
"""A conversation -> prompt and completion ("" without an answer), or the reason to drop it."""

PLAIN = "turns below each other, as the tokenizer has no chat template"
BY_TEMPLATE = "by the tokenizer's chat template"
# The date that Llama's template falls back on. transformers' own function asks the clock, and
# takes no other in its place.
_DATE = {"%d": "26", "%m": "07", "%Y": "2024", "%y": "24", "%b": "Jul", "%B": "July"}
_DATE |= {"%a": "Fri", "%A": "Friday", "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%p": "PM"}
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('{code}', '{said}')" for code, said in _DATE.items())
    + " }}{% endmacro %}"
)


@typed
def plain_chat(conversation: Conversation) -> tuple[str, str]:
    """The texts of the turns before the answer, each ended by a newline; and the answer's."""
    texts = [turn.text for turn in conversation.before if turn.text.strip()]
    prompt = "".join(text if text.endswith("\n") else text + "\n" for text in texts)
    return prompt, "" if conversation.answer is None else conversation.answer.text


@typed
def chat_format(tokenizer: PreTrainedTokenizerBase) -> tuple[ChatFormat, str]:
    """The format of a tokenizer's conversations, and in words which it is."""
    if not tokenizer.chat_template:
        return plain_chat, PLAIN
    return lambda conversation: _templated(conversation, tokenizer), BY_TEMPLATE


def _templated(
    conversation: Conversation, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, str] | str:
    before, answer = conversation.before, conversation.answer
    try:
        prompt = _rendered(tokenizer, before, open_answer=True)
        whole = "" if answer is None else _rendered(tokenizer, (*before, answer))
    except Exception as error:
        # a template is a program of the tokenizer's own, and raises what it likes
        said = " ".join(str(error).split())[:80] or type(error).__name__
        return f"messages that the chat template refuses: {said}"
    completion = "" if answer is None else answer.text
    if whole.startswith(prompt):  # one that opens with thoughts may write an answer without them
        completion = whole.removeprefix(prompt)
    end = tokenizer.eos_token
    if isinstance(end, str) and completion.rstrip().endswith(end):
        completion = completion.rstrip().removesuffix(end)
    opening = tokenizer("")["input_ids"][:1]
    if opening and opening[0] == tokenizer.bos_token_id:  # it is put before every prompt
        prompt = prompt.removeprefix(str(tokenizer.bos_token))
    return prompt, completion


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: tuple[Turn, ...], *, open_answer: bool = False
) -> str:
    template = tokenizer.get_chat_template()
    rendered = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns],
        tokenize=False,
        add_generation_prompt=open_answer,
        chat_template=(_FIXED_DATE if "strftime_now" in template else "") + template,
    )
    assert isinstance(rendered, str)
    return rendered
