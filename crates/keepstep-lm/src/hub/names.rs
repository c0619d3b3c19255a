//! Loads weights of other programs into keepstep's layout. Prefixes of wrappers are removed, and linear layers may be
//! stored transposed.

use crate::hub::HubError;
use crate::hub::tensors::Named;
use keepstep_model::layout::{Layout, NamedTensor};

pub(crate) const HEAD: &str = "lm_head.weight";
pub(crate) const EMBEDDING: &str = "transformer.wte.weight";
const POSITIONS: &str = "transformer.wpe.weight";

/// How a file stores the weights of linear layers: `[out, in]` (`nn.Linear`, in nanoGPT) or `[in, out]` (`Conv1D`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linear {
    InOut,
    OutIn,
}

/// Returns the name of a tensor in `GPT2LMHeadModel`, or `None` for a buffer that is not a parameter.
pub(crate) fn canonical(name: &str) -> Option<String> {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("_orig_mod.").or_else(|| name.strip_prefix("module.")) {
        name = rest;
    }
    // Some versions save the causal masks.
    if name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") {
        return None;
    }
    // A plain `GPT2Model` omits the prefix.
    let has_prefix = name.starts_with("transformer.") || name == HEAD;
    Some(if has_prefix { name.to_owned() } else { format!("transformer.{name}") })
}

/// Fills `parameters`. With `crop`, a position embedding that is too long is cut to the model's length.
pub(crate) fn load(
    tensors: &[Named<'_>],
    layout: &Layout,
    parameters: &mut [f32],
    crop: bool,
) -> Result<Linear, HubError> {
    let tensors: Vec<(String, &Named<'_>)> =
        tensors.iter().filter_map(|tensor| Some((canonical(&tensor.name)?, tensor))).collect();
    let find = |name: &str| tensors.iter().find(|(other, _)| other == name).map(|(_, tensor)| *tensor);
    let linear = orientation(layout, &find);
    let mut problems = Vec::new();
    for tensor in layout.tensors() {
        match find(&tensor.name) {
            None => problems.push(format!("`{}` {:?} is missing", tensor.name, tensor.shape)),
            Some(found) if !fits(&found.shape, tensor, linear, crop) => {
                let wanted = shape(tensor, linear);
                let has_padding = tensor.name == EMBEDDING
                    && matches!((found.shape.as_slice(), wanted.as_slice()), ([rows, width], [tokens, wanted])
                        if width == wanted && rows > tokens);
                let way_out = if has_padding {
                    format!(
                        " (model.vocab_size = {} keeps the rows beyond the tokenizer's entries)",
                        found.shape[0]
                    )
                } else {
                    String::new()
                };
                problems.push(format!(
                    "`{}` is {:?} in the file and {wanted:?} in the model of the config{way_out}",
                    found.name, found.shape
                ));
            }
            Some(_) => {}
        }
    }
    for (name, tensor) in &tensors {
        if name != HEAD && !layout.tensors().iter().any(|known| known.name == *name) {
            problems.push(format!("`{}` {:?} has no place in the model", tensor.name, tensor.shape));
        }
    }
    if !problems.is_empty() {
        return Err(HubError::Unmapped { problems });
    }
    for tensor in layout.tensors() {
        let Some(found) = find(&tensor.name) else { continue };
        place(&mut parameters[tensor.offset..tensor.offset + tensor.len()], &found.values()?, tensor, linear);
    }
    if let (Some(head), Some(embedding)) = (find(HEAD), find(EMBEDDING)) {
        let (one, other) = (head.values()?, embedding.values()?);
        let tied = one.len() == other.len()
            && one.iter().zip(&other).all(|(one, other)| one.to_bits() == other.to_bits());
        if !tied {
            let problem =
                format!("`{}` differs from `{}`: keepstep's head is tied", head.name, embedding.name);
            return Err(HubError::Unmapped { problems: vec![problem] });
        }
    }
    Ok(linear)
}

/// Finds out how linear layers are stored. The weight of `c_attn` is never square, so its shape shows it.
fn orientation<'a>(layout: &Layout, find: &impl Fn(&str) -> Option<&'a Named<'a>>) -> Linear {
    let name = "transformer.h.0.attn.c_attn.weight";
    let known = layout.tensors().iter().find(|tensor| tensor.name == name);
    match (known, find(name)) {
        (Some(known), Some(found)) if found.shape != known.shape => Linear::OutIn,
        _ => Linear::InOut,
    }
}

fn is_linear(tensor: &NamedTensor) -> bool {
    tensor.shape.len() == 2 && ![EMBEDDING, POSITIONS].contains(&tensor.name.as_str())
}

/// Returns the shape of a tensor in the file.
pub(crate) fn shape(tensor: &NamedTensor, linear: Linear) -> Vec<usize> {
    let mut shape = tensor.shape.clone();
    if linear == Linear::OutIn && is_linear(tensor) {
        shape.reverse();
    }
    shape
}

fn fits(found: &[usize], tensor: &NamedTensor, linear: Linear, crop: bool) -> bool {
    let expected = shape(tensor, linear);
    let longer = tensor.name == POSITIONS
        && crop
        && found.len() == 2
        && found[1] == expected[1]
        && found[0] >= expected[0];
    found == expected || longer
}

/// Copies a tensor, and transposes it if the file stores linear layers as `[out, in]`.
pub(crate) fn place(out: &mut [f32], values: &[f32], tensor: &NamedTensor, linear: Linear) {
    if linear == Linear::OutIn && is_linear(tensor) {
        let (ins, outs) = (tensor.shape[0], tensor.shape[1]);
        for (index, out) in out.iter_mut().enumerate() {
            *out = values[index % outs * ins + index / outs];
        }
    } else {
        let len = out.len();
        out.copy_from_slice(&values[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_wrappers() {
        for name in
            ["transformer.h.0.ln_1.weight", "module._orig_mod.transformer.h.0.ln_1.weight", "h.0.ln_1.weight"]
        {
            assert_eq!(canonical(name).as_deref(), Some("transformer.h.0.ln_1.weight"));
        }
        assert_eq!(canonical("_orig_mod.lm_head.weight").as_deref(), Some(HEAD));
        assert_eq!(canonical("h.3.attn.bias"), None);
        assert!(canonical("h.3.attn.c_attn.bias").is_some());
    }
}
