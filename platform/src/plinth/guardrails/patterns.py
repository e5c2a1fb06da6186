"""Patterns of texts that try to instruct the assistant. Tripwires: what gets past them is harmless by the rules for
answers (docs/explanation/guardrails.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from plinth.core.assistants import Pattern
from plinth.core.digests import digest_json
from plinth.core.regexes import windows
from plinth.guardrails.text import normal, readings

Place = Literal["question", "sources"]

# Where an order begins: a line, a clause, or after a word that leads to one.
_START = (
    r"(?:^|[.!?:;,>*\"'`)\]}|/-] ?"
    r"|\b(?:please|and|then|now|instead|to|you|must|should|can|could|would|will|kindly|just|also) )"
)
_ORDERS = (
    r"(?:instruct\w{0,7}|rules?|prompts?|directions?|directives?|guidelines?|guardrails?|polic(?:y|ies)|restrictions?"
    r"|constraints?|context|messages?|commands?|orders?|training|programming|told|said)"
)
_EARLIER = (
    r"(?:previous|prior|above|earlier|preceding|foregoing|former|initial|original|existing|current|system|your|before"
    r"|given|all)"
)
_SET_ASIDE = (
    r"(?:ignore|disregard|forget|override|overrule|bypass|circumvent|(?:do not|don't|stop) follow(?:ing)?"
    r"|pay no attention to|set aside|drop|discard|skip|abandon|neglect)"
)
_SHOW = (
    r"(?:reveal|print|show|repeat|output|display|tell|give|leak|dump|recite|translate|summari[sz]e|encode|share|list"
    r"|write|copy|paste|quote|expose|return|state|spell)"
)
_INNER = r"(?:system|hidden|initial|secret|developer|original|internal|confidential|base|full|exact)"
_SPEAKER = r"(?:ai|a\.i\.|assistant|llm|language model|chat ?bot|gpt|chatgpt|claude|gemini|copilot|bot)"
_SAY = (
    r"(?:say|answer|reply|respond|output|print|state|write|claim|tell|return|repeat|recommend|cite|include|append"
    r"|mention)"
)
_FOREIGN = r"(?:https?|ftp)://(?!127\.|localhost|\[::1)"
_STATES = (
    r"(?:ready|able|done|on|in|at|logged|set|back|using|running|free|here|finished|asked|prompted|redirected|connected"
    r"|needed|required|allowed)\b"
)
_ROLE = (
    r"(?:if you|though you|an? (?:unrestricted|unfiltered|different|evil|new|jail|uncensored|developer|admin|root"
    r"|dan\b)|(?:the )?(?:system|admin|root|dan\b)|my (?:late|dead|grand))"
)


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in pattern.

    Attributes:
        name: Its name.
        meaning: What a text with it does, for people.
        places: Where it is looked for.
        looks: What is looked for: words of which one stands in every text that the expression matches (texts without
            are not looked at further), and the expression. No repeat is unbounded: time is in proportion to the text.
    """

    name: str
    meaning: str
    places: tuple[Place, ...]
    looks: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]

    def matches(self, text: str, lowered: str) -> bool:
        """Whether it stands in a text in normal form, given also in small letters."""
        return any(
            any(word in lowered for word in words) and expression.search(text) is not None
            for words, expression in self.looks
        )


def _builtin(
    name: str, meaning: str, *looks: tuple[str, str], places: tuple[Place, ...] = ("question", "sources")
) -> Builtin:
    compiled = tuple(
        (tuple(words.split("|")), re.compile(expression, re.IGNORECASE | re.MULTILINE)) for words, expression in looks
    )
    return Builtin(name, meaning, places, compiled)


BUILTIN: tuple[Builtin, ...] = (
    _builtin(
        "ignore-instructions",
        "asks to set aside what the assistant was told",
        (
            "ignor|disregard|forget|overrid|overrul|bypass|circumvent|follow|attention to|set aside|drop|discard|skip"
            "|abandon|neglect",
            rf"\b{_SET_ASIDE}\b[^.!?\n]{{0,30}}\b{_EARLIER}\b[^.!?\n]{{0,30}}\b{_ORDERS}\b",
        ),
        (
            "ignore |disregard |forget ",
            rf"{_START}(?:ignore|disregard|forget) (?:everything|anything|all|what)\b[^.!?\n]{{0,20}}"
            r"\b(?:above|before|previous\w{0,2}|said|told|so far|until now)\b",
        ),
        (
            "above|before|so far|were given|were told|you have",
            rf"\b{_SET_ASIDE} (?:\w{{1,12}} ){{0,2}}{_ORDERS} (?:above|before|so far|(?:that )?you (?:were|have))\b",
        ),
        (
            "new instruction|new directive|new prompt|new system",
            r"\bnew (?:system )?(?:instructions?|directives?|prompt) ?: ?\S",
        ),
        (
            "ignoriere|vergiss|missachte",
            r"\b(?:ignoriere|vergiss|missachte)\b[^.!?\n]{0,40}\b(?:anweisungen|regeln|vorgaben)\b",
        ),
        ("ignore|oublie", r"\b(?:ignorez?|oubliez?)\b[^.!?\n]{0,40}\b(?:instructions|consignes|règles)\b"),
        (
            "ignora|ignore|olvida|olvide",
            r"\b(?:ignor[ae]|ignorar|olvid[ae])\b[^.!?\n]{0,40}"
            r"\b(?:instrucciones|reglas|instruções|istruzioni|regole)\b",
        ),
    ),
    _builtin(
        "reveal-prompt",
        "asks for the assistant's own prompt",
        (
            "prompt|message|instruction|rules",
            rf"{_START}{_SHOW}\b[^.!?\n]{{0,40}}\b(?:your|the|its|this|any|all) (?:\w{{1,12}} ){{0,2}}{_INNER} "
            r"(?:prompts?|messages?|instructions?|rules)\b",
        ),
        (
            " your ",
            rf"{_START}{_SHOW}\b[^.!?\n]{{0,30}}\byour (?:\w{{1,12}} ){{0,2}}"
            r"(?:prompt|instructions|rules|guidelines)\b",
        ),
        (
            " your ",
            r"\bwhat (?:is|are|was|were|does|do) your (?:\w{1,12} ){0,2}(?:prompt|instructions|rules|guidelines)\b",
        ),
        (
            "repeat ",
            r"\brepeat (?:the )?(?:words|text|everything|all)\b[^.!?\n]{0,20}\b(?:above|before|verbatim)\b",
        ),
    ),
    _builtin(
        "role-marker",
        "holds the markers that separate a conversation's roles",
        ("<|", r"<\|[\w ]{2,30}\|>"),
        ("inst]|sys>>|s>[", r"\[/?INST\]|<</?SYS>>|</?s>\["),
        (
            "<system|</system|<assistant|</assistant|<tool|</tool|function_call>",
            r"</?(?:system|assistant|tool_call|function_call|tool_response)>",
        ),
        (
            "system|assistant|developer|human|user",
            r"^(?:#{1,4} ?)?(?:system|assistant|developer|human|user) ?(?:message|prompt|override|note)? ?: ?(?:you"
            r"|your|ignore|please|do|never|always|new|from|reveal|print|say|answer|reply|send|override|i"
            r"|the (?:user|assistant))\b",
        ),
        ("##", r"^#{2,4} ?(?:system|instructions?|response) ?:(?: |$)"),
        (
            "begin system|begin new|begin admin",
            r"\bBEGIN (?:SYSTEM|NEW|ADMIN) (?:PROMPT|INSTRUCTIONS?|MESSAGE)\b",
        ),
        (
            "end of prompt|end of instr|end of context|end of doc|end of source",
            r"\bEND OF (?:PROMPT|INSTRUCTIONS|CONTEXT|DOCUMENTS?|SOURCES?)\b[^\w\n]{0,10}"
            r"(?:new|now|system|you|ignore|$)",
        ),
    ),
    _builtin(
        "delimiter",
        "holds the tags that separate sources and question in the prompt",
        ("<", r"< ?/ ?(?:source|question|sources|context)\b"),
        ("<", r"< ?(?:source|question) ?(?:id ?=[^>\n]{0,20})?>"),
        places=("question",),
    ),
    _builtin(
        "new-role",
        "gives the assistant another role",
        (
            "you are ",
            rf"\byou are (?:now|no longer|going to (?:act|be|play|pretend))\b(?! {_STATES})",
        ),
        (
            "act as|behave as|respond as|answer as|play as",
            rf"{_START}(?:act|behave|respond|answer|roleplay|role-play) as {_ROLE}",
        ),
        ("pretend", rf"{_START}pretend (?:to be|you are|you're|that you)\b"),
        ("from now on", rf"\bfrom now on,? (?:you|all|only|every|always|ignore|{_SAY})\b"),
        (
            " mode ",
            r"\b(?:developer|debug|god|admin|maintenance|dan|jailbreak|unrestricted|sudo) mode "
            r"(?:is )?(?:on|enabled|activated|engaged)\b",
        ),
        (
            "enter ",
            r"\benter (?:developer|debug|god|admin|maintenance|dan|unrestricted) mode\b",
        ),
        ("do anything now|jailbroken", r"\bdo anything now\b|\bjailbroken\b"),
    ),
    _builtin(
        "exfiltrate",
        "asks to send what is known to somewhere",
        (
            "://|www.|@",
            r"\b(?:send|post|upload|forward|e-?mail|transmit|exfiltrate|submit|leak|report|copy|deliver|append|include"
            r"|embed|encode|put|attach)\b[^!?\n]{0,60}\b(?:conversations?|chats?|history|questions?|answers?|prompts?"
            r"|secrets?|passwords?|keys?|tokens?|credentials?|context|everything|documents?|contents?|above|user'?s?"
            rf"|names?|data|results?|it|them|this)\b[^!?\n]{{0,40}}(?:{_FOREIGN}|\bwww\."
            r"|\b[\w.+-]{1,40}@[\w-]{1,40}\.\w{2,10})",
        ),
        (
            "![",
            r"!\[[^\]\n]{0,80}\]\( ?(?:https?:)?//[^)\n]{0,200}(?:[{\[<$]|%7B|[?&]\w{0,20}"
            r"(?:data|secret|question|query|answer|text|prompt|key|context|leak|exfil|\bq)\w{0,20}=)",
        ),
        ("<img", r"<img\b[^>\n]{0,200}\bsrc ?= ?[\"']?(?:https?:)?//[^>\n]{0,200}[?{$]"),
        (
            "://",
            r"\b(?:fetch|visit|open|load|call|get|browse|request|ping|curl|wget)\b[^!?\n]{0,30}"
            rf"{_FOREIGN}[^\s]{{0,120}}[?&]\w{{0,20}}(?:data|secret|question|prompt|key|context|leak|exfil|q)\w{{0,20}}=",
        ),
    ),
    _builtin(
        "instructs-assistant",
        "speaks to the assistant instead of saying something",
        (
            "note|message|instruction|attention|notice|memo|important|hint|reminder|warning|order",
            r"\b(?:note|message|instructions?|attention|notice|memo|important|hint|reminder|warning|orders?)"
            rf"(?: (?:to|for))?[,:]? (?:all |any |the |every |an? )?{_SPEAKER}s?\b ?[:,!.-]",
        ),
        (
            "dear |hey|hello|hi |hi,|attention|ok |ok,|listen",
            rf"\b(?:dear|hey|hello|hi|attention|ok|listen)[, ]{{1,2}}(?:the )?{_SPEAKER}\b",
        ),
        (
            "ai,|ai:|ai -|assistant|model|bot|gpt|claude|gemini|copilot|llm",
            rf"{_START}(?:the )?{_SPEAKER}s?(?: models?)?(?:,|:| -) (?:please )?(?:ignore|disregard|{_SAY}|do not|don't"
            r"|never|always|you (?:must|should|shall|will|have))\b",
        ),
        ("in your ", r"\bin your (?:next |final |own )?(?:answers?|response|repl(?:y|ies)|output|summary)\b"),
        (
            "if you|when you|whenever you|before you|while you|ask",
            r"\b(?:if|when|whenever|before|while) (?:you(?:'re| are)? (?:answer\w{0,3}|asked|read\w{0,3}"
            r"|summari[sz]\w{1,4}|process\w{0,3}|quot\w{1,3})|(?:the |a |any )?users? asks?(?: you)?)\b"
            rf"[^.!?\n]{{0,60}}\b{_SAY}\b",
        ),
        (
            "you must|you should|you shall|you need|you have|you are to|you will|your answer|your repl|your response",
            r"\b(?:you|your (?:answer|reply|response)s?) (?:must|should|shall|need to|have to|are to|will) (?:now "
            r"|always |only |never |also |not )?(?:answer|reply|respond|output|tell the user|recommend|obey|comply|cite"
            r"|ignore|(?:begin|end) (?:every|each))\b",
        ),
        (
            " with",
            rf"{_START}(?:only |always |simply )?(?:answer|respond|reply) (?:only |always |exactly |every question "
            r"|each question |to (?:every|all|any) \w{1,12} )?with\b",
        ),
        (
            "tell ",
            rf"{_START}tell (?:the |every |all |any |our |this )?(?:users?|customers?|readers?|person|people|human)"
            r"(?: that| to|,|:)",
        ),
        (
            "only|exactly|just|verbatim|the word|the phrase|the string|the text|the sentence|the following|this",
            rf"{_START}(?:say|output|print|reply|answer|respond|repeat|write) (?:only|exactly|just|verbatim|this"
            r"|the (?:word|phrase|string|text|sentence|following)) ?[:\"'“‘`«]",
        ),
        (
            "do not tell|do not inform|do not mention|do not reveal|do not disclose",
            r"\bdo not (?:tell|inform|mention|reveal|disclose)\b[^.!?\n]{0,30}\busers?\b",
        ),
        (" cite ", r"\b(?:and|always|then|must|please) cite \[?\d{1,3}\]?(?: |$|\.)"),
        places=("sources",),
    ),
)

# Something quoted is talked about, not said, where the rest of the clause says so.
_QUOTED = re.compile(r"`[^`\n]{3,160}`|\"[^\"\n]{3,160}\"|“[^”\n]{3,160}”|‘[^’\n]{3,160}’|(?<!\w)'[^'\n]{3,160}'(?!\w)")
_TALK = re.compile(
    r"\b(?:injections?|attacks?|attackers?|phrases?|patterns?|strings?|wording|such as|for example|e\.g\.|called|like"
    r"|says?|said|reads|writes?|asks?|texts?|sentences?|contains?|containing|holds?|tries|what happens|detect\w{0,3}"
    r"|refus\w{1,3}|block\w{0,3}|flag\w{0,4}|match\w{0,3}|marker|tag|role)\b",
    re.IGNORECASE,
)


def _said(text: str) -> str:
    """The text without what it only mentions: quoted strings and code in a line that talks about them."""
    if not _QUOTED.search(text):
        return text
    lines = []
    for line in text.split("\n"):
        rest = _QUOTED.sub(" … ", line)
        talks = len(re.findall(r"\w+", rest)) >= 4 and _TALK.search(rest)
        lines.append(rest if talks else line)
    return "\n".join(lines)


def injections(text: str, place: Place, extra: Sequence[Pattern] = ()) -> list[str]:
    """Names of the patterns of instructions that stand in a text, in the order of their table, each once."""
    found: set[str] = set()
    for reading in readings(text):
        for window in windows(reading):
            said = _said(window)
            lowered = said.lower()
            found.update(
                builtin.name
                for builtin in BUILTIN
                if place in builtin.places and builtin.name not in found and builtin.matches(said, lowered)
            )
        found.update(matching(extra, reading))
    order = [*(builtin.name for builtin in BUILTIN), *(pattern.name for pattern in extra)]
    return [f"injection:{name}" for name in dict.fromkeys(order) if name in found]


def rules_digest() -> str:
    """sha256 of what `screen` looks for: with another one, files are read again."""
    looks = [[rule.name, [[list(words), sought.pattern] for words, sought in rule.looks]] for rule in BUILTIN]
    return digest_json(looks)


def screen(text: str) -> list[str]:
    """Rules that a document's text breaks by instructing the assistant: what ingestion quarantines it for."""
    return injections(text, "sources")


def matching(patterns: Iterable[Pattern], text: str) -> Iterator[str]:
    """Names of a product's patterns that stand in a text in normal form. They see 2,000 characters at once."""
    for pattern in patterns:
        expression = re.compile(pattern.pattern, re.IGNORECASE)  # cached by re
        if any(expression.search(window) for window in windows(text)):
            yield pattern.name


def topics(patterns: Sequence[Pattern], text: str) -> list[str]:
    """Names of the blocked topics that a text is about, in all its readings."""
    if not patterns:
        return []
    found = {name for reading in readings(text) for name in matching(patterns, normal(reading))}
    return [f"topic:{pattern.name}" for pattern in patterns if pattern.name in found]
