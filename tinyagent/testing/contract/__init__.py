"""The behaviours that every provider must have, as tests that its author inherits.

    from tinyagent.testing import ChatWire, ProviderContract

    class TestAcme(ProviderContract):
        wire, stream_fn = ChatWire(), stream_acme

        def make_model(self, base_url):
            return AcmeModel(id="m", base_url=base_url)

pytest finds the tests in the class. The URL `base_url` is that of a loopback server that speaks the wire's
protocol and shows each fault that servers have. The tests are plain functions that run their own event loop,
so no pytest plugin is necessary. A test fails after `patience` seconds, or if it leaves a task.

`wire` is a `ChatWire`, `AnthropicWire`, `ResponsesWire` or `ProxyWire`, or your own `Wire`. A provider
without a server omits it. Then the tests cannot set the content of its replies, and check only the order of
its events, unless it overrides `serve`. List in `exempt` what a provider cannot do, with the reason.
"""

from .case import FEATURES, CallOutcome, LookTool, ProviderUnderTest
from .checks import advance_clock
from .content import ContentTests
from .failures import FailureTests
from .leaving import LeavingTests
from .request import RequestTests
from .streaming import StreamingTests

__all__ = ["FEATURES", "CallOutcome", "LookTool", "ProviderContract", "ProviderUnderTest", "advance_clock"]


class ProviderContract(ContentTests, StreamingTests, RequestTests, FailureTests, LeavingTests):
    """Inherit from it in a test module; see the documentation of `tinyagent.testing.contract`.

    Attributes:
        stream_fn: The provider.
        wire: The protocol of its server; None if it has no server.
        exempt: Features (see `FEATURES`) that the provider does not have, each with the reason.
        retries: How often the provider sends a request again.
        patience: The most seconds of a test.
        key: The value of `options["api_key"]`. The provider must send it only to its server.
    """
