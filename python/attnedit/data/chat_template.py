"""Chat templates: the Jinja program in a tokenizer's folder that writes messages as the text a model was trained on."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnedit.foreign import parse_json, require_inside

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MOST_SOURCE = 2**20  # characters; published ones have some thousands
# Of the process that renders: its memory with Python and Jinja in it, seconds of computing, files that it may write.
LIMITS = {"RLIMIT_AS": 2**29, "RLIMIT_CPU": 10, "RLIMIT_FSIZE": 0}
MOST_SECONDS = 60  # by the clock, where others take the processor


class ChatTemplate:
    """A folder's chat_template.jinja, or the chat_template of its tokenizer_config.json.

    Templates are other people's programs: they run in Jinja's sandbox, in a process of its own with little memory and
    time, with the variables and functions that transformers gives them. Raises ValueError in one line for a folder
    without one and for what does not render.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """config: the folder's tokenizer_config.json."""
        self.source = _source(folder, config)
        self._special = {key: _content(config[key]) for key in SPECIAL if config.get(key) is not None}

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **more: Any) -> str:
        """messages: {"role": ..., "content": ...}, as chat interfaces have them; more: the template's own variables.

        content may only lack where an assistant calls tools. All of it must be what JSON can hold, in Unicode.
        add_generation_prompt: up to where the assistant begins to speak.
        """
        if not messages:
            raise ValueError("[chat template] messages must have at least one message, got none")
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise ValueError(f"[chat template] message {i} must be a mapping with a role, got {message!r:.80}")
            # A template would write what is missing as nothing, or as None.
            if not isinstance(message.get("content"), str | list) and not message.get("tool_calls"):
                raise ValueError(
                    f"[chat template] message {i} must have content, text or a list of parts, got {message!r:.80}"
                )
        said = {"messages": [dict(message) for message in messages], "add_generation_prompt": add_generation_prompt}
        variables = {"tools": None, "documents": None} | self._special | more | said
        try:
            asked = json.dumps({"source": self.source, "variables": variables, "limits": LIMITS})
            json.dumps(variables, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"[chat template] messages and variables must be as JSON has them: {error}") from None
        answer = _answer(asked)
        if "error" in answer:
            raise ValueError(f"[chat template] it does not render: {answer['error']}")
        return answer["text"]


def _answer(asked: str) -> dict[str, str]:
    script = Path(__file__).with_name("template_process.py")
    # -P: what lies beside the script is no module of its own.
    command = [sys.executable, "-P", str(script)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=MOST_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"it takes more than {MOST_SECONDS} s"}
    if done.returncode < 0:  # a signal: SIGXCPU, or what the system sends where memory ends
        limits = f"{LIMITS['RLIMIT_CPU']} s of computing or {LIMITS['RLIMIT_AS'] >> 20} MiB"
        return {"error": f"it needs more than {limits}"}
    if done.returncode:
        return {"error": " ".join(done.stderr.decode(errors="replace").split())[-500:]}
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def read_messages(path: Path | None, user: str | None, system: str | None) -> list[dict[str, Any]]:
    """A conversation: the JSON list of messages at path, or what a user says, after a system message where given."""
    if path is None:
        said = {"system": system, "user": user}
        return [{"role": role, "content": content} for role, content in said.items() if content is not None]
    messages = parse_json(path.read_bytes(), f"[chat template] {path}")
    if not isinstance(messages, list):
        raise ValueError(f"[chat template] {path} must be a list of messages, got {type(messages).__name__}")
    return messages


def _source(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    written = config.get("chat_template")
    if path.is_file():
        require_inside(folder, path)
        try:
            with path.open(encoding="utf-8") as file:
                written = file.read(MOST_SOURCE + 1)
        except UnicodeDecodeError as error:
            raise ValueError(f"[chat template] {path} must be UTF-8: {error}") from None
    elif isinstance(written, list):  # several, by name
        several = (each for each in written if isinstance(each, Mapping))
        written = next((each.get("template") for each in several if each.get("name") == "default"), None)
    if not isinstance(written, str):
        raise ValueError(
            f"[chat template] {folder} must hold chat_template.jinja, or tokenizer_config.json a chat_template; "
            "models without one take prompts only"
        )
    if len(written) > MOST_SOURCE:
        raise ValueError(f"[chat template] {folder}: it must have at most {MOST_SOURCE} characters, got more")
    return written


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token
