"""Filters for a language model's responses: strip what surrounds the text, and reject unusable texts.

Each response is checked against its own source only; `moe.augment.pipeline` compares it with held-out texts and with
other augmented rows.
"""

import re
import unicodedata
from collections import Counter

from moe.data.dedup import is_chinese, jaccard, shingles
from moe.data.text_checks import text_problem

_LENGTH_RATIO = 3
_SHORT_TEXT = 20
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.S | re.I)
_THINKING_END = re.compile(r"\A.*</think(?:ing)?>", re.S | re.I)
_MARKS = re.compile(r"</?text-[0-9a-f]+>")
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.S)
_REWRITTEN = r"(?:re-?writ|re-?phras|paraphras|re-?word|synonym|version|variant|new text|改写|重写|替换)"
_PREFIX = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok|好的|当然)\W+)?"
    rf"(?:(?:here(?:'s|’s| is| are)|以下是|这是|下面是)[^\n:：]{{0,80}}{_REWRITTEN}[^\n:：]{{0,80}}"
    rf"|(?:the )?{_REWRITTEN}\w*(?: (?:text|version|headline|sentence|post))?|改写后的?文本?)\s*[:：]\s*",
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


def strip_thinking(response: str) -> str:
    """Return the response without `<think>…</think>`, also if only one of the two tags is present."""
    return _THINKING_END.sub("", _THINKING.sub("", response)).strip()


def clean_response(response: str, source: str) -> str:
    """Return the new text only: without thinking, marks, code fence, a lead-in such as "Here is …:", and quotes."""
    text = _MARKS.sub("", strip_thinking(response)).strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    if not _PREFIX.match(source):
        text = _PREFIX.sub("", text).strip()
    return text if _is_quoted(source) else _unquote(text)


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and _QUOTES.get(text[0]) == text[-1]


def _unquote(text: str) -> str:
    """Strip surrounding quotes, unless the same kind occurs inside and therefore belongs to the text."""
    while _is_quoted(text) and text[0] not in text[1:-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def rejection_reason(text: str, source: str, threshold: float, new: bool = False) -> str | None:
    """Return why a cleaned response may not be used, in a few words, or None if it may.

    Args:
        text: the cleaned response.
        source: the text that it was written from.
        threshold: Jaccard similarity from which the two count as the same text.
        new: whether it is a new text like its source, which may hold other figures.
    """
    if text_problem(text):
        return "empty"
    if _REFUSAL.search(text[:120]) and not _REFUSAL.search(source):
        return "refusal"
    if main_script(source) not in ("", main_script(text)):
        return "different script"
    if reason := _shape_problem(text, source):
        return reason
    if not new and set(_FIGURE.findall(text)) - set(_FIGURE.findall(source)):
        return "a figure that is not in the source"
    return "same as its source" if jaccard(shingles(text), shingles(source)) >= threshold else None


def _shape_problem(text: str, source: str) -> str | None:
    if len(text) > _LENGTH_RATIO * max(len(source), _SHORT_TEXT):
        return "much longer than its source"
    if _LENGTH_RATIO * max(len(text), _SHORT_TEXT) < len(source):
        return "much shorter than its source"
    return "several lines" if "\n" in text and "\n" not in source.strip() else None


def main_script(text: str) -> str:
    """Return the script of most letters: the first word of their Unicode names, CJK for Han and kana, "" for none."""
    if any(map(str.isalpha, text)) and is_chinese(text):
        return "CJK"
    names = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    return names.most_common(1)[0][0] if names else ""
