"""Takes one selfie into memory and nothing else: no temporary file, no file name, no second file."""

from io import BytesIO
from typing import Any, Final

from django.core.files.uploadedfile import InMemoryUploadedFile
from django.core.files.uploadhandler import FileUploadHandler, SkipFile

from headshots.services.uploads import MAX_BYTES

FIELD: Final = "selfie"


class BoundedMemoryUploadHandler(FileUploadHandler):
    """Holds at most MAX_BYTES. What is too much is read and dropped, so that the form's other fields survive.

    `refusal_code` is then set, and the request has no file; `middleware.bounded_body` answers with the code.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refusal_code = ""
        self._content: BytesIO | None = None

    def new_file(self, field_name: str, *args: Any, **kwargs: Any) -> None:
        super().new_file(field_name, *args, **kwargs)
        if field_name != FIELD:
            raise SkipFile
        if self._content is not None:
            self.refusal_code = "malformed_request"
            raise SkipFile
        self._content = BytesIO()

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self._content is not None
        if start + len(raw_data) > MAX_BYTES:
            self.refusal_code = "file_too_large"
            self._content = BytesIO()
            raise SkipFile
        self._content.write(raw_data)

    def file_complete(self, file_size: int) -> InMemoryUploadedFile | None:
        """The file under a fixed name: what the customer called it is nobody's business."""
        assert self._content is not None
        self._content.seek(0)
        return InMemoryUploadedFile(self._content, FIELD, FIELD, self.content_type, file_size, None)
