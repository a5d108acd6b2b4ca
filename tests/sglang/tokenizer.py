"""A tokenizer of real SGLang, in a process of its own: the methods that send a request, on real sockets.

What `TokenizerManager.__init__` makes besides (processor, detokenizer, metrics) takes a model, and no request here
touches it.
"""

import asyncio
import copy
import weakref
from array import array
from collections.abc import Iterable
from typing import Any

import torch
import zmq
import zmq.asyncio
from sglang.srt.managers.io_struct import GenerateReqInput, TokenizedGenerateReqInput
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalProcessorOutput
from sglang.srt.managers.tokenizer_manager import ReqState, TokenizerManager
from sglang.srt.observability.req_time_stats import APIServerReqTimeStats
from sglang.srt.runtime_context import publish
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils.cuda_vmm_transport_utils import CudaVmmFeatureTransport


class Tokenizer:
    """Sends requests to ``address``. Its calls run one event loop after another."""

    def __init__(self, checkpoint: str, address: str, **parallel: int) -> None:
        arguments = ServerArgs(model_path=checkpoint, device="cpu", **parallel)
        publish(arguments, role="tokenizer")
        self._loop = asyncio.new_event_loop()
        manager = TokenizerManager.__new__(TokenizerManager)
        manager.server_args = arguments
        manager.enable_metrics = False
        manager.mm_processor = None
        manager.tokenizer_ipc_name = None
        manager.send_to_scheduler = zmq.Context.instance().socket(zmq.PUSH)
        manager.send_to_scheduler.bind(address)
        manager.init_running_status()
        manager.init_positional_embeds_transport()
        manager.cuda_vmm_feature_transport = CudaVmmFeatureTransport(arguments, None)
        self.manager: Any = manager

    @property
    def ring(self) -> Any:
        """The plugin's, once there is one."""
        sender = vars(self.manager).get("_shmtransport_sender")
        return sender and sender.ring

    @property
    def is_on(self) -> bool:
        """Whether every rank has joined."""
        return self.ring is not None and vars(self.manager)["_shmtransport_sender"].peers() is not None

    def request(self, rid: str, features: Iterable[Any], **fields: Any) -> Any:
        """With one item for each of ``features``."""
        items = [
            MultimodalDataItem(
                modality=Modality.IMAGE, hash=number + 1, pad_value=number + 1, feature=feature, **fields
            )
            for number, feature in enumerate(features)
        ]
        return TokenizedGenerateReqInput(
            rid=rid,
            input_text="What is this?",
            input_ids=array("q", [1, 2, 3]),
            input_embeds=None,
            mm_inputs=MultimodalProcessorOutput(mm_items=items),
            token_type_ids=None,
            sampling_params=SamplingParams(max_new_tokens=1),
            return_logprob=False,
            logprob_start_len=-1,
            top_logprobs_num=0,
            token_ids_logprob=None,
            stream=False,
            time_stats=APIServerReqTimeStats(),
        )

    def send(self, request: Any) -> list[str]:
        """As `TokenizerManager` sends it; what stands in it for tensors then, by name of class."""
        self._await_state(request.rid)
        self._loop.run_until_complete(self.manager._send_one_request(request))
        return [type(item.feature).__name__ for item in request.mm_inputs.mm_items]

    def send_samples(self, rid: str, tensor: torch.Tensor, n: int) -> None:
        """As `_handle_batch_request` does for ``n`` samples: each a copy of the request and of its items."""
        tokenized = self.request(rid, [tensor])
        for number in range(n + 1):  # SGLang fills its prefix cache first
            sample = copy.copy(tokenized)
            sample.mm_inputs = copy.copy(sample.mm_inputs)
            sample.mm_inputs.mm_items = [copy.copy(item) for item in sample.mm_inputs.mm_items]
            sample.rid = f"{rid}.{number}"
            sample.time_stats = APIServerReqTimeStats()
            self.send(sample)

    def _await_state(self, rid: str) -> None:
        self.manager.rid_to_state[rid] = ReqState(
            out_list=[],
            finished=False,
            event=asyncio.Event(),
            obj=GenerateReqInput(),
            time_stats=APIServerReqTimeStats(),
        )

    def finish(self, *rids: str) -> None:
        """What the end of a request comes to, whichever it was."""
        for rid in rids:
            state = weakref.ref(self.manager.rid_to_state.pop(rid))
            assert state() is None

    def abort(self, rid: str) -> None:
        """As when a client has gone: the scheduler is told, and the request ends."""
        self.manager.abort_request(rid)
        self.finish(rid)

    def fail_to_send(self, request: Any) -> str:
        """The error of a send that fails at the socket."""
        socket, self.manager.send_to_scheduler = self.manager.send_to_scheduler, zmq.Context.instance().socket(zmq.PUSH)
        self.manager.send_to_scheduler.close()
        try:
            self.send(request)
        except zmq.ZMQError as error:
            return str(error)
        finally:
            self.manager.send_to_scheduler = socket
        return ""
