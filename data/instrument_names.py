"""Tells from the name that a composer gave an instrument of a tracker module which stem it belongs to."""

from __future__ import annotations

import re
import unicodedata

_DRUMS = re.compile(
    r"drum|drm|kick|sna?re?|sna\d|znare|cymb|crash|claps?\b|klap|conga|bongo|cowbell|cencerro|shaker|maraca|cabasa"
    r"|rim ?shot|perc|perkus|timbale|castanet|clave(?!c)|vibra?slap|platillo|bombo\b|tabla|triangle|tamb(?:o|\d|\b)"
    r"|brush|tr[- ]?[6789]0[6789]"
    r"|(?<![cnstw])hats?(?!e)|hi[- ]?hat|hi[- ]?cl|hi[- ]?op|\b[oc]?hht?\d*\b"
    r"|\b[bs]d\d*\b|\bbdr|\btechbd|bass?e?d\b|bass?e?[-_. ]?dr|\bride|\bcym"
    r"|(?<![a-z])toms?(?![a-z])|(?:rack|floor|perc|tiny|low|mid|high|synth)[- ]?tom|\dtoms?(?![a-z])"
)
_NO_DRUMS = re.compile(r"kettle|timp|steel[- ]?dr|taiko|drummer")
_PITCHED = {
    "bass": re.compile(r"bass(?!o{1,2}n)|\bbas\d|bas\d*$|baz\b|\bbs\b|\bbajo\b|contrabas"),
    "guitar": re.compile(r"guit|gitar|kitar|\bgtr|\bgt\b|\bgt\.|telecaster|stratocaster|les ?paul"),
    "piano": re.compile(r"piano|iano \d|\bpno|pno\b|\be-?pno|rhodes|wurli|clavi?net|\bclavi?\b|harpsi|cembalo|honky"),
}
# A name with these sounds like something else as well: a layer, or another instrument altogether.
_OTHERS = re.compile(r"oboe|clarinet|sax|flute|flue|choir|violin|cello|string|brass|trumpet|trombone|vibes|vox|voice")
# Composers write letters to the listener in the fields for names.
_PROSE = re.compile(
    r"\b(?:a|the|that|this|these|is|was|are|by|from|of|for|to|with|you|your|my|me|i|i'm|it's|its|and|all|not|made|used"
    r"|music|song|tune|composed|sampled|samples|ripped|greets|greetings)\b|@|www|http"
)


def stem_of_name(name: str) -> str | None:
    """The stem that an instrument belongs to, or None: none of them, or the name does not tell.

    Args:
        name: as in the module: "Drum.Snare.Deep", "bass:elwood", "Acoustic Bass Drum (Standa", "HardBaseDrum.12".
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip()
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower().replace("_", " ")
    if not text or _PROSE.search(text):
        return None
    joined = text.replace(" ", "")
    if _NO_DRUMS.search(joined):
        return None
    if _DRUMS.search(text) or _DRUMS.search(joined):
        return "drums"
    found = [stem for stem, pattern in _PITCHED.items() if pattern.search(text)]
    if found == ["bass", "guitar"]:  # a bass guitar
        return "bass"
    if len(found) != 1 or (found != ["guitar"] and _OTHERS.search(text)):
        return None
    return found[0]
