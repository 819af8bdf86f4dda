"""Previews to protobuf messages and back; nothing else."""

from horen_vllm.control._pb.horen.v1 import edits_pb2
from horen_vllm.control.messages import CollisionView, PreviewView
from horen_vllm.ids import EditId
from horen_vllm.registry.preview_records import PreviewVerdict


def preview_to_proto(view: PreviewView) -> edits_pb2.PreviewEditResponse:
    """Return the message of what would become of an edit."""
    return edits_pb2.PreviewEditResponse(
        verdict=view.verdict.name,
        revision=view.revision,
        related=view.related,
        collisions=[
            edits_pb2.Collision(
                edit_id=it.edit_id,
                text=it.text,
                score=it.score,
                threshold=it.threshold,
                prompt=it.prompt,
                target=it.target,
            )
            for it in view.collisions
        ],
        refusal=None
        if view.refusal_code is None
        else edits_pb2.Refusal(code=view.refusal_code, message=view.refusal or ""),
    )


def preview_from_proto(message: edits_pb2.PreviewEditResponse) -> PreviewView:
    """Read what would become of an edit."""
    refused = message.HasField("refusal")
    return PreviewView(
        verdict=PreviewVerdict[edits_pb2.PreviewEditResponse.Verdict.Name(message.verdict)],
        revision=message.revision,
        related=tuple(map(EditId, message.related)),
        collisions=tuple(
            CollisionView(
                edit_id=EditId(it.edit_id),
                text=it.text,
                score=it.score,
                threshold=it.threshold,
                prompt=it.prompt,
                target=it.target,
            )
            for it in message.collisions
        ),
        refusal_code=message.refusal.code if refused else None,
        refusal=message.refusal.message if refused else None,
    )
