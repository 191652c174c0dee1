"""Products in a traced program."""

import math

from jax.extend.core import jaxprs_in_params


def traced_products(jaxpr) -> int:
    """Multiply-accumulates of the matrix products and convolutions in a traced program."""
    total = 0
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            total += traced_products(inner)
        shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += math.prod(shapes[-1]) * math.prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            total += math.prod(shapes[-1]) * math.prod(shapes[1]) // shapes[1][numbers.rhs_spec[0]]
    return total
