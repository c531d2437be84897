"""Made-up keys of fifteen shapes, the sentences they stand in, and clean texts that look dangerous."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
import uuid

LETTERS = string.ascii_letters + string.digits


def text_of(chooser: random.Random, length: int, alphabet: str = LETTERS) -> str:
    return "".join(chooser.choices(alphabet, k=length))


def keys(chooser: random.Random) -> dict[str, str]:
    """Make one key of each shape; none of them opens anything."""

    def some(length: int, alphabet: str = LETTERS) -> str:
        return text_of(chooser, length, alphabet)

    def part(held: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(held).encode()).decode().rstrip("=")

    block = "\n".join(some(64, LETTERS + "+/") for _ in range(5))
    return {
        "aws_access_key": "AKIA" + some(16, string.ascii_uppercase + "234567"),
        "aws_secret": some(40, LETTERS + "/+"),
        "openai": "sk-proj-" + some(48) + "T3BlbkFJ" + some(20),
        "anthropic": "sk-ant-api03-" + some(93, LETTERS + "-_") + "AA",
        "hugging_face": "hf_" + some(34, string.ascii_letters),
        "github": "ghp_" + some(36),
        "github_fine_grained": "github_pat_" + some(22) + "_" + some(59),
        "google": "AIza" + some(35, LETTERS + "-_"),
        "slack": f"xoxb-{some(12, string.digits)}-{some(12, string.digits)}-{some(24)}",
        "stripe": "sk_live_" + some(24),
        "comet": "Comet key " + some(25),
        "private_key": f"-----BEGIN RSA PRIVATE KEY-----\n{block}\n-----END RSA PRIVATE KEY-----",
        "json_web_token": ".".join([part({"alg": "HS256"}), part({"sub": "1"}), some(43, LETTERS + "-_")]),
        "password_in_url": f"postgres://admin:{some(12)}@db.example.com/x",
        "assigned": f"api_key={some(40, LETTERS + '-_')}",
    }


SENTENCES = (
    "We used {} yesterday and it worked.",
    "my key is {}, please rotate it",
    "金鑰是{}，請勿外流。",
    "Never do this:\nexport X={}\nDone.",
    "I pasted `{}` into a notebook by mistake",
)

PROSE = (
    "the model data pipeline learned vector store we ship feature deploy embed token key api chunk team "
    "production batch stream secret password review credential"
)
WORDS = PROSE.split()


def clean_text(chooser: random.Random) -> str:
    """Make a text without any secret, of the kind that sets off careless detectors."""
    lines = []
    for _ in range(chooser.randint(3, 10)):
        lines.append(" ".join(chooser.choices(WORDS, k=chooser.randint(5, 20))).capitalize() + ".")
        lines.append(chooser.choice(DANGEROUS_LOOKING)(chooser) if chooser.random() < 0.5 else "")
    return "\n".join(lines)


def _base64(chooser: random.Random, size: int) -> str:
    return base64.b64encode(chooser.randbytes(size)).decode()


DANGEROUS_LOOKING = (
    lambda chooser: "commit " + hashlib.sha1(chooser.randbytes(9)).hexdigest(),
    lambda chooser: "sha256: " + hashlib.sha256(chooser.randbytes(9)).hexdigest(),
    lambda chooser: "md5 key " + hashlib.md5(chooser.randbytes(9)).hexdigest(),
    lambda chooser: "token id " + str(uuid.UUID(int=chooser.getrandbits(128))),
    lambda chooser: f"![i](data:image/png;base64,{_base64(chooser, chooser.randint(100, 900))})",
    lambda chooser: "\n".join(_base64(chooser, 48) for _ in range(3)) + "\n" + _base64(chooser, 30),
    lambda chooser: "integrity sha512-" + _base64(chooser, 64),
    lambda chooser: (
        "https://docs.example.com/document/d/" + text_of(chooser, 44) + "/edit?v=" + text_of(chooser, 11)
    ),
    lambda chooser: (
        "https://github.com/Org/Repo/blob/" + hashlib.sha1(b"x").hexdigest() + "/src/MyClass.java#L10"
    ),
    lambda chooser: "api_key = os.environ['OPENAI_API_KEY']; OpenAI(api_key=settings.OPENAI_API_KEY)",
    lambda chooser: "token = tokenizer.encode(text)[:4096]\npassword: str = Field(default=None)",
    lambda chooser: (
        "export OPENAI_API_KEY=your-key-here, api_key: <YOUR_API_KEY>, QDRANT_API_KEY=xxxxxxxxxxxx"
    ),
    lambda chooser: "postgres://user:password@localhost:5432/db and class sk-toggleable__content-arrow",
    lambda chooser: "getUserById2FromTheOldService3 and AbstractSingletonProxyFactoryBean2024 key",
    lambda chooser: "v1.2.3-rc.1+build.5114f85 2024-01-15T10:22:33.123456Z 192.168.10.255:8080 image@2x.png",
    lambda chooser: "order 1234567890 at 1699999999999 with 3.1415926535897932384626 and 0xDEADBEEFCAFEBABE",
)
