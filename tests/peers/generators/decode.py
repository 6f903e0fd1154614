"""Decode lines with the generated pydantic models and msgspec Structs, in the environment of the generators.

decode.py NAME FILE...: the working directory has NAME.json, NAME_models.py and NAME_structs.py. For each
line, both types must have the name of the line's component in the schema, and must contain all of the line.
Writes the number of lines by type.
"""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path

import msgspec

sys.path.insert(0, "")
name = sys.argv[1]
schema = json.loads(Path(f"{name}.json").read_bytes())
choices = [schema, schema["$defs"].get("Command", {}), schema["$defs"].get("Output", {})]
mapping = {
    kind: path
    for choice in choices
    for kind, path in choice.get("discriminator", {"mapping": {}})["mapping"].items()
}
models, structs = (importlib.import_module(f"{name}_{kind}") for kind in ("models", "structs"))
decoder = msgspec.json.Decoder(structs.Line)
counts: Counter[str] = Counter()
for file in sys.argv[2:]:
    for line in Path(file).read_bytes().splitlines():
        value = json.loads(line)
        struct, model = decoder.decode(line), models.Line.model_validate_json(line)
        while hasattr(model, "root"):
            model = model.root
        component = mapping[value["type"]].rpartition("/")[2]
        assert component == type(struct).__name__ == type(model).__name__, line
        built = msgspec.to_builtins(struct)  # with the defaults of commands
        assert value == {key: built[key] for key in value}, line
        assert value == model.model_dump(mode="json", exclude_unset=True), line
        counts[value["type"]] += 1
sys.stdout.write(json.dumps(counts))
