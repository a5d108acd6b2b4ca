"""vLLM's HTTP servers in processes of their own, and questions to them through the ``openai`` client."""

import base64
import contextlib
import functools
import http.server
import importlib
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import skimage.data
from prometheus_client.parser import text_string_to_metric_families

from shmtransport import Reader, segment
from shmtransport.errors import SegmentNotFoundError
from shmtransport.statistics import RingStatistics
from tests.vllm.programs import TIMEOUT_S, Program, poll

openai: Any = importlib.import_module("openai")  # comes with vLLM, and is not where types are checked
Metrics: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]
MODEL = "llava-7b"
ANSWER_TOKENS = 50_000
"""Of an answer that a kill cuts short."""
PHOTOGRAPHS = Path(skimage.data.__file__).parent
SINGLE = ("-m", "vllm.entrypoints.openai.api_server", "--model")
SERVE = ("-m", "tests.vllm.serve", "serve")
"""``vllm serve``; the other knows one API server only."""
OPTIONS = (
    "--served-model-name llava-7b --host 127.0.0.1 --enforce-eager --dtype float32 --max-model-len 65536 "
    "--skip-mm-profiling --seed 0"
).split()


class Server(Program):
    """A server on loopback that may read the photographs' folder."""

    def __init__(
        self, scenario: str, folder: Path, command: tuple[str, ...], checkpoint: Path, *options: str, bound: bool = True
    ) -> None:
        self._port = free_port()
        paths = ("--port", self._port, "--allowed-local-media-path", PHOTOGRAPHS)
        super().__init__(scenario, folder, *command, checkpoint, *OPTIONS, *paths, *options, bound=bound)

    def wait_until_ready(self) -> None:
        """Until it answers. The test fails, with the end of its log, if it ends before."""

        def answers() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server has ended\n{self.log()[-6000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=TIMEOUT_S):
                    return True
            except (urllib.error.URLError, ConnectionError):
                return False

        poll(answers)

    def ask(self, *parts: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message of ``parts``: its text, and the logprobs of each step."""
        with self._client() as client:
            answered = client.chat.completions.create(
                **asking(parts), max_tokens=16, logprobs=True, top_logprobs=5
            ).choices[0]
            return {"text": answered.message.content, "logprobs": answered.logprobs.model_dump()["content"]}

    def metrics(self) -> Metrics:
        """What it says at /metrics, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}

    def kill_while_it_answers(self, *parts: dict[str, Any]) -> str:
        """Kills the frontend, which is the process itself, when the first token has come. The client's error.

        It asks for so long an answer, minutes of it, that nothing delays the kill until the answer is over.
        """
        with self._client() as client:
            unending: dict[str, Any] = {"max_tokens": ANSWER_TOKENS, "extra_body": {"ignore_eos": True}}
            stream = client.chat.completions.create(**asking(parts), **unending, stream=True)
            next(stream)
            self.process.kill()
            try:
                *_, last = stream
            except Exception as error:  # noqa: BLE001
                return type(error).__name__
            return f"an answer that ends with {last}"

    def _client(self) -> Any:
        url = f"http://127.0.0.1:{self._port}/v1"
        return openai.OpenAI(base_url=url, api_key="none", timeout=TIMEOUT_S, max_retries=0)

    def terminate(self) -> int:
        """Ends it as an operator does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


def asking(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": list(parts)}], "temperature": 0}


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def rings() -> list[RingStatistics]:
    """The statistics of all rings in /dev/shm that are complete, looked at as one more reader."""
    found = []
    for ring_id in segment.rings():
        with contextlib.suppress(SegmentNotFoundError), Reader.join(ring_id, name="test") as reader:
            found.append(reader.statistics())
    return found


@contextlib.contextmanager
def photographs_by_http() -> Iterator[str]:
    """The URL of a server of the photographs' folder."""
    handler = functools.partial(Silent, directory=str(PHOTOGRAPHS))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def by_file(photograph: str) -> dict[str, Any]:
    return image((PHOTOGRAPHS / photograph).as_uri())


def by_base64(photograph: str) -> dict[str, Any]:
    kind = "jpeg" if photograph.endswith("jpg") else "png"
    return image(f"data:image/{kind};base64,{base64.b64encode((PHOTOGRAPHS / photograph).read_bytes()).decode()}")
