"""Phrases by which an instruction leans on a text that its reader does not see, in ten languages."""

from __future__ import annotations

import re

_EN = "post|text|article|content|passage|extract|excerpt|document|snippet|paragraph|readme|repository"
_ES = "texto|publicación|artículo|post|contenido|fragmento|pasaje|documento"
_PT = "texto|publicação|artigo|post|conteúdo|trecho|documento"
_FR = "texte|article|post|publication|contenu|passage|extrait|document"
_DE = "text|beitrag|artikel|post|inhalt|abschnitt|auszug|dokument"
_IT = "testo|articolo|post|contenuto|brano|documento"

# "this post", "the text above", "content number 3": a line is one habit of a language, from a word's start.
_SPACED = (
    rf"(?:this|these|that) (?:{_EN})s?\b(?! (?:type|format|editor|field|generation))",
    rf"(?:above|following|given|provided|preceding|attached) (?:{_EN}|author)s?\b",
    rf"(?:{_EN})s? (?:above|below|provided|given)\b",
    r"the (?:passage|extract|excerpt|snippet|paragraph)\b",
    rf"(?:in|of|from|summari[sz]e|rewrite|according to|based on) the (?:{_EN})(?=[.,;:?!]|$)",
    rf"the (?:{_EN}|author)(?:'s main| (?:say|describe|discusse|mention|provide|state|argue)s?)\b",
    r"(?:content|text|post|chunk) (?:number|no\.?|#) ?\d*",
    rf"(?:est[ea]|dich[oa]) (?:{_ES})\b|(?:{_ES}) (?:anterior|siguiente|de arriba)\b|contenido número\b",
    rf"(?:n?est[ea]|dest[ea]) (?:{_PT})\b|(?:{_PT}) (?:acima|abaixo|a seguir)\b|conteúdo número\b",
    rf"(?:ce|cet|cette) (?:{_FR})\b|(?:{_FR}) (?:ci-dessus|ci-dessous|suivant|précédent)e?\b",
    r"contenu numéro\b",
    rf"(?:diese[rmns]?|obige[nrs]?|folgende[nrs]?|vorliegende[nrs]?) (?:{_DE})(?:e?s)?\b|inhalt nummer\b",
    rf"quest[oa] (?:{_IT})\b|(?:{_IT}) (?:sopra|precedente|seguente)\b|contenuto numero\b",
)
# 本文 also stands inside 日本文化 and 版本文件, 文中 inside 中文中, hence the lookarounds.
_SPACELESS = (
    r"(?<![日版基腳脚課课樣样])本文(?![化件學学明])|(?<!基)本篇",
    r"[這这](?:篇|則|则|段)(?:文章|貼文|贴文|帖子|內容|内容|文字|文本)?|[這这]個?个?儲存庫",
    r"(?:上述|以上|上面|下列|以下|給定|给定)的?(?:文章|貼文|贴文|帖子|內容|内容|文字|文本)",
    r"(?<![中英日法德韓韩俄西])文中|上文|原文|[該该](?:文章|貼文|帖子|文)",
    r"[內内]容[編编][號号]|第\s?\d+\s?[則则篇段]",
    r"(?:この|上記の|以下の|前述の|本)(?:記事|投稿|文章|テキスト|内容|文書)|コンテンツ番号",
    r"(?:이|위의?|다음|해당) ?(?:글|게시물|기사|텍스트|내용|문서)(?=[은는이가을를의에\s.,?!]|$)|본문|본 글",
)
_IN_SPACED = re.compile(rf"\b(?:{'|'.join(_SPACED)})")
_IN_SPACELESS = re.compile("|".join(_SPACELESS))


def leans_on_text(instruction: str) -> bool:
    """Tell whether an instruction refers to a text its reader lacks ("summarise this post")."""
    if _IN_SPACED.search(instruction.lower()):
        return True
    return not instruction.isascii() and _IN_SPACELESS.search(instruction) is not None
