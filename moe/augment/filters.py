"""What a language model's answer is once its wrapping is off, and why it may not be used.

It judges one answer beside its source; whether it is near a held-out text or another variant is left to
`moe.augment.pipeline`.
"""

import re
import unicodedata
from collections import Counter

from moe.data.dedup import is_chinese, jaccard, shingles
from moe.data.readers import text_problem

_LONGER = 3
_FLOOR = 20
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.S | re.I)
_OPENED_BEFORE = re.compile(r"\A.*</think(?:ing)?>", re.S | re.I)
_MARKS = re.compile(r"</?text-[0-9a-f]+>")
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.S)
_SAID = r"(?:re-?writ|re-?phras|paraphras|re-?word|synonym|version|variant|new text|改写|重写|替换)"
_PREFIX = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok|好的|当然)\W+)?"
    rf"(?:(?:here(?:'s|’s| is| are)|以下是|这是|下面是)[^\n:：]{{0,80}}{_SAID}[^\n:：]{{0,80}}"
    rf"|(?:the )?{_SAID}\w*(?: (?:text|version|headline|sentence|post))?|改写后的?文本?)\s*[:：]\s*",
    re.I,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』", "«": "»", "`": "`"}
_REFUSAL = re.compile(
    r"(?:\bi(?:'m| am|’m) (?:sorry|unable|not able)|\bi (?:can(?:'t|’t|not| not)|won't|will not) "
    r"(?:help|assist|provide|rewrite|paraphrase|comply|fulfil|do that|create|generate)"
    r"|\bas an ai\b|\bas a language model\b|\A\W*(?:非常|很)?(?:抱歉|对不起)"
    r"|我(?:无法|不能)(?:提供|协助|改写|帮|满足|完成)|作为(?:一个|一名)?(?:ai|人工智能))",
    re.I,
)
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


def strip_thinking(answer: str) -> str:
    """The answer without `<think>…</think>`, be it never closed or opened before the answer began."""
    return _OPENED_BEFORE.sub("", _THOUGHTS.sub("", answer)).strip()


def clean_response(answer: str, source: str) -> str:
    """The new text alone: thoughts, marks, code fence, "Here is …:" and quotes around it taken off."""
    text = _MARKS.sub("", strip_thinking(answer)).strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    if not _PREFIX.match(source):
        text = _PREFIX.sub("", text).strip()
    return text if _quoted(source) else _unquoted(text)


def _quoted(text: str) -> bool:
    return len(text) > 1 and _QUOTES.get(text[0]) == text[-1]


def _unquoted(text: str) -> str:
    """Without the quotes around it, unless the same kind stands inside, where they belong to the text."""
    while _quoted(text) and text[0] not in text[1:-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def rejection_reason(text: str, source: str, near: float, new: bool = False) -> str | None:
    """Why a cleaned answer may not stand for its source, in a few words; None when it may.

    Args:
        text: the answer, cleaned.
        source: the text it was asked for.
        near: Jaccard similarity from which the two are the same.
        new: it is another text like its source, which may tell of other figures.
    """
    if text_problem(text):
        return "empty"
    if _REFUSAL.search(text[:120]) and not _REFUSAL.search(source):
        return "refusal"
    if main_script(source) not in ("", main_script(text)):
        return "other script"
    if fault := _misshapen(text, source):
        return fault
    if not new and set(_FIGURE.findall(text)) - set(_FIGURE.findall(source)):
        return "a figure that is not in the source"
    return "same as its source" if jaccard(shingles(text), shingles(source)) >= near else None


def _misshapen(text: str, source: str) -> str | None:
    if len(text) > _LONGER * max(len(source), _FLOOR):
        return "much longer than its source"
    if _LONGER * max(len(text), _FLOOR) < len(source):
        return "much shorter than its source"
    return "several lines" if "\n" in text and "\n" not in source.strip() else None


def main_script(text: str) -> str:
    """The script of most letters, by the first word of their Unicode names; Han and kana are one, none is ""."""
    if any(map(str.isalpha, text)) and is_chinese(text):
        return "CJK"
    names = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    return names.most_common(1)[0][0] if names else ""
