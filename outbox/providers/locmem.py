"""For tests: keeps what it is given, and answers as it is told."""

from outbox.providers.base import Accepted, Message, ProviderError
from outbox.providers.base import Provider as BaseProvider


class Provider(BaseProvider):
    """Accepts everything until `error` is set; `messages` holds what was handed over, refused ones included."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.messages: list[Message] = []
        self.error: ProviderError | None = None

    def send(self, message: Message) -> Accepted:
        self.messages.append(message)
        if self.error:
            raise self.error
        return Accepted(f"locmem-{len(self.messages)}")
