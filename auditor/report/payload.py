"""The gallery as the page's script reads it: columns of plain values, numbers already written out."""

from __future__ import annotations

from typing import Any

from auditor.report.gallery import Card, Gallery
from auditor.report.numbers import number, percent


def payload(gallery: Gallery) -> dict[str, Any]:
    """JSON values; texts are raw, so the page must escape what could end its script element.

    Args:
        gallery: The samples.

    Returns:
        `orders`, `methods` and `classes` (names), `rankBy`, `predicts`, `samples`: a list a field, entry i of each
        belonging to the same sample, and `others`: the same for what stands around them.
    """
    cards = gallery.cards
    return {
        "orders": gallery.orders,
        "methods": gallery.methods,
        "rankBy": gallery.rank_by,
        "predicts": gallery.predicts,
        "classes": gallery.class_names,
        "samples": {
            "rank": [card.rank for card in cards],
            "id": [card.sample_id for card in cards],
            "given": [card.given for card in cards],
            "suggested": [card.suggested for card in cards],
            "probability": [percent(card.suggested_probability, 0) for card in cards],
            "effect": [effect(card, gallery.predicts) for card in cards],
            "priority": [round(card.priority, 3) for card in cards],
            "flagged": [int(card.flagged) for card in cards],
            "verdict": [card.verdict for card in cards],
            "ranks": [card.ranks for card in cards],
            "scores": [[number(score) for score in card.scores] for card in cards],
            "truth": [card.true_label for card in cards],
            "image": [card.thumbnail.uri if card.thumbnail else None for card in cards],
            "size": [f"{card.thumbnail.width} × {card.thumbnail.height}" if card.thumbnail else None for card in cards],
            "tiny": [int(card.thumbnail.tiny) if card.thumbnail else 0 for card in cards],
            "bars": [card.bars for card in cards],
            "values": [values(card) for card in cards],
            "carried": [card.carried for card in cards],
            "neighbours": [[(at, number(value)) for at, value in card.neighbours] for card in cards],
            "harmed": [[(at, number(value)) for at, value in card.harmed] for card in cards],
        },
        "others": {
            "id": [other.sample_id for other in gallery.others],
            "label": [other.label for other in gallery.others],
            "image": [other.thumbnail.uri if other.thumbnail else None for other in gallery.others],
            "tiny": [int(other.thumbnail.tiny) if other.thumbnail else 0 for other in gallery.others],
            "bars": [other.bars for other in gallery.others],
        },
    }


def effect(card: Card, predicts: bool) -> str:
    """What removing a sample is predicted to do, in a few words; how suspicious it is where nothing is predicted."""
    if not predicts:
        return number(card.harm)
    if card.harm == 0:
        return "loss stays"
    return f"loss {'falls' if card.harm > 0 else 'rises'} {number(abs(card.harm))}"


def values(card: Card) -> str:
    """The first feature values as text; empty for images."""
    shown = ", ".join(number(value) for value in card.values)
    return f"{shown}, … ({card.features:,} values)" if card.features > len(card.values) else shown
