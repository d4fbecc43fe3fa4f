"""Ways from what people have to a `Dataset`, a module each; `medimg.data.sources` names them."""
