"""What was found of evidence, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocimodel.ops.admission import Judgement
    from ocimodel.signing.trust import Finding


def judgement_document(judgement: Judgement) -> dict[str, Any]:
    decision = judgement.decision
    return {
        "by": judgement.by,
        "accepted": decision.accepted,
        "scope": decision.scope,
        "reasons": list(decision.reasons),
        "evidence": [finding_document(finding) for finding in decision.findings],
    }


def finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "origin": finding.origin,
        "form": finding.form,
        "predicateType": finding.predicate_type,
        "countedBy": dict(finding.counted_by),
        "refusals": dict(finding.refusals),
    }


def finding_line(finding: Finding) -> str:
    """One line: what it is, and who vouches or why it does not count."""
    what = f"{finding.form} {finding.predicate_type}".strip() or "unreadable"
    if finding.counted_by:
        who = ", ".join(f"{name} ({identity})" for name, identity in finding.counted_by.items())
        return f"{what} by {who}"
    why = "; ".join(f"{name}: {reason}" for name, reason in finding.refusals.items())
    return f"does not count: {what} at {finding.origin}: {why}"
