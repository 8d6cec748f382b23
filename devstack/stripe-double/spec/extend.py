#!/usr/bin/env python3
"""Adds types and paths of Stripe's Python SDK to the schema: `extend.py SDK SPEC`.

SDK is the unpacked package `stripe` of the version that the schema is derived from, SPEC the packed schema, which is rewritten.
Reads the annotations only; nothing of the SDK is run.
"""

import ast
import gzip
import json
import pathlib
import sys

# Module of the type, and of the service with its paths if the fake Stripe answers them.
TYPES = {
    "_charge": "_charge_service",
    "_coupon": "_coupon_service",
    "_credit_note": "_credit_note_service",
    "_credit_note_line_item": "_credit_note_line_item_service",
    "_customer_balance_transaction": None,
    "_dispute": "_dispute_service",
    "_payment_intent": "_payment_intent_service",
    "_payment_method": "_payment_method_service",
    "_promotion_code": "_promotion_code_service",
    "_refund": "_refund_service",
    "tax/_settings": "tax/_settings_service",
}
EXTRA_SERVICES = ["_credit_note_preview_lines_service", "_invoice_payment_service"]
# Paths whose other methods (card data, deprecated sources, …) nobody asks for.
ONLY = {
    "/v1/charges/{charge}": ["get"],
    "/v1/disputes": ["get"],
    "/v1/disputes/{dispute}": ["get"],
    "/v1/payment_intents": ["get"],
    "/v1/payment_intents/{intent}": ["get"],
    "/v1/payment_methods/{payment_method}/attach": ["post"],
    "/v1/refunds": ["get", "post"],
    "/v1/refunds/{refund}": ["get"],
}
# The paths of these that are not in ONLY.
LEFT_OUT = ("/v1/charges", "/v1/disputes", "/v1/payment_intents", "/v1/payment_methods", "/v1/refunds")
SCALARS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


class Sdk:
    def __init__(self, root):
        self.root = pathlib.Path(root)

    def module(self, name):
        tree = ast.parse((self.root / f"{name}.py").read_text())
        sources = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    sources[alias.asname or alias.name] = (node.module, alias.name)
        return tree, sources

    def object_name(self, module):
        path = self.root / (module.removeprefix("stripe.").replace(".", "/") + ".py")
        for node in ast.walk(ast.parse(path.read_text())):
            target = getattr(node, "target", None)
            if isinstance(node, ast.AnnAssign) and getattr(target, "id", "") == "OBJECT_NAME":
                return node.value.value
        return None


def either(schemas):
    values, other = schemas[0], schemas[1:]
    if other == [{"type": "string"}] and values.get("enum", [""]) != [""]:
        return values  # the SDK lets any text pass, so that old clients can read new values
    return {"anyOf": schemas}


class Annotations:
    """Turns annotations of one module into schemas."""

    def __init__(self, sdk, module):
        self.sdk, (self.tree, self.sources) = sdk, sdk.module(module)
        self.classes = {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    def schema(self, node, scope=()):
        """`scope`: the classes around the annotation, whose nested classes it can name."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.schema(ast.parse(node.value.strip(), mode="eval").body, scope)
        if isinstance(node, ast.BinOp):
            left, right = self.schema(node.left, scope), self.schema(node.right, scope)
            return either([*left.get("anyOf", [left]), *right.get("anyOf", [right])])
        if isinstance(node, ast.Subscript):
            return self.generic(ast.unparse(node.value).rpartition(".")[2], node.slice, scope)
        name = ast.unparse(node)
        if name in SCALARS:
            return {"type": SCALARS[name]}
        if name == "Decimal":
            return {"type": "number", "format": "decimal"}
        for around in reversed(scope):
            for inner in around.body:
                if isinstance(inner, ast.ClassDef) and inner.name == name.rpartition(".")[2]:
                    return self.fields(inner, (*scope, inner))
        if name in self.classes and not scope:
            schema = self.fields(self.classes[name], ())
            return schema | {"additionalProperties": False, "title": name}
        module = self.sources.get(name, ("",))[0]
        if module.startswith("stripe.") and (found := self.sdk.object_name(module)):
            return {"$ref": f"#/components/schemas/{found}"}
        return {}  # `Any`

    def generic(self, name, inner, scope):
        if name in ("Optional", "NotRequired"):
            schema = self.schema(inner, scope)
            return schema | {"nullable": True} if name == "Optional" else schema
        if name == "Literal":
            values = [value.value for value in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
            return {"type": "boolean" if isinstance(values[0], bool) else "string", "enum": values}
        if name in ("List", "list"):
            return {"type": "array", "items": self.schema(inner, scope)}
        if name == "ListObject":
            return {"x-list": self.schema(inner, scope)}
        if name in ("Dict", "dict"):
            return {"type": "object", "additionalProperties": self.schema(inner.elts[1], scope)}
        if name == "UntypedStripeObject":
            return {"type": "object", "additionalProperties": self.schema(inner, scope)}
        if name == "ExpandableField":
            return {"anyOf": [{"type": "string"}, self.schema(inner, scope)]}
        if name == "Union":
            return either([self.schema(one, scope) for one in inner.elts])
        if name == "ClassVar":
            return self.schema(inner, scope)
        raise ValueError(f"unknown annotation {name}")

    def fields(self, node, scope):
        properties, required = {}, []
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or field.target.id.startswith("_"):
                continue
            if field.target.id == "OBJECT_NAME":
                continue
            text = field.annotation.value if isinstance(field.annotation, ast.Constant) else ast.unparse(field.annotation)
            properties[field.target.id] = self.schema(field.annotation, scope)
            if not text.startswith(("Optional", "NotRequired")):
                required.append(field.target.id)
        return {"type": "object", "properties": dict(sorted(properties.items())), "required": sorted(required)}


def add_type(sdk, spec, module):
    annotations = Annotations(sdk, module)
    name = sdk.object_name("stripe." + module.replace("/", "."))
    (node,) = [node for node in annotations.classes.values() if any("OBJECT_NAME" in ast.unparse(x) for x in node.body)]
    spec["components"]["schemas"][name] = annotations.fields(node, (node,))


def add_paths(sdk, spec, module):
    tree, sources = sdk.module(module)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and ast.unparse(call.func) == "self._request"]
        for call in calls:
            path = call.args[1]
            if isinstance(path, ast.Call):  # "/v1/…/{id}".format(…)
                path = path.func.value
            method, path = call.args[0].value, path.value
            if method not in ONLY.get(path, [method]) or (path not in ONLY and path.startswith(LEFT_OUT)):
                continue
            params = next(arg.annotation for arg in node.args.args if arg.arg == "params")
            while isinstance(params, ast.Subscript):
                params = params.slice
            params_module, params_name = sources[params.value]
            reader = Annotations(sdk, params_module.removeprefix("stripe.").replace(".", "/"))
            spec["paths"].setdefault(path, {})[method] = {
                "operationId": f"{[c for c in tree.body if isinstance(c, ast.ClassDef)][0].name}.{node.name}",
                "x-base": "api",
                "x-returns": node.returns.value,
                "x-params": reader.schema(ast.Name(params_name)),
            }


def main(sdk, packed):
    sdk, packed = Sdk(sdk), pathlib.Path(packed)
    spec = json.loads(gzip.decompress(packed.read_bytes()))
    for module, service in TYPES.items():
        add_type(sdk, spec, module)
        if service:
            add_paths(sdk, spec, service)
    for service in EXTRA_SERVICES:
        add_paths(sdk, spec, service)
    text = json.dumps(spec, separators=(",", ":"))
    packed.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
