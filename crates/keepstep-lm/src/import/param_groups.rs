//! Assigns the model's tensors to the groups of an optimizer.
//!
//! A state dict numbers its tensors through all groups. It names them only since PyTorch 2.6 (`param_names`). Without
//! names, the assignment uses the sizes of the groups and the shapes of the moments.

use crate::hub::names::{self, Linear};
use keepstep_model::layout::{Layout, NamedTensor};

/// The known facts about one group.
pub(crate) struct Members {
    pub(crate) names: Option<Vec<String>>,
    /// The shape of each moment, or `None` for a tensor that does not have one yet.
    pub(crate) shapes: Vec<Option<Vec<usize>>>,
    pub(crate) weight_decay: f64,
}

/// The tensors of each group, as indices in the layout, and the assumption behind them, if any.
pub(crate) struct Assignment {
    pub(crate) tensors: Vec<Vec<usize>>,
    pub(crate) assumed: Option<String>,
}

/// The kinds of tensors by which training loops form groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TokenEmbedding,
    PositionEmbedding,
    LinearWeight,
    LinearBias,
    NormWeight,
    NormBias,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::TokenEmbedding, "the token embedding"),
    (Kind::PositionEmbedding, "the positions"),
    (Kind::LinearWeight, "the weights of linear layers"),
    (Kind::LinearBias, "their biases"),
    (Kind::NormWeight, "the weights of LayerNorms"),
    (Kind::NormBias, "their biases (LayerNorms)"),
];

/// The largest number of groups for which an assignment by kind is tried.
const MOST_GROUPS: usize = 6;

impl Kind {
    fn from_tensor(tensor: &NamedTensor) -> Kind {
        let is_bias = tensor.name.ends_with(".bias");
        match tensor.name.as_str() {
            name if name.contains(".wte.") => Kind::TokenEmbedding,
            name if name.contains(".wpe.") => Kind::PositionEmbedding,
            name if name.contains(".ln_") && is_bias => Kind::NormBias,
            name if name.contains(".ln_") => Kind::NormWeight,
            _ if is_bias => Kind::LinearBias,
            _ => Kind::LinearWeight,
        }
    }
}

/// Finds the tensors of each group. Tries names first, then kinds of tensors whose sizes and shapes fit. Otherwise it
/// goes through the tensors in order and assigns each to the only group whose next shape fits.
pub(crate) fn assign(layout: &Layout, linear: Linear, groups: &[Members]) -> Result<Assignment, String> {
    let all: Vec<usize> = (0..layout.tensors().len()).collect();
    if groups.iter().any(|group| group.names.is_some()) {
        let tensors = by_name(layout, groups)?;
        return Ok(Assignment { tensors, assumed: None });
    }
    if let [_] = groups {
        return Ok(Assignment { tensors: vec![all], assumed: None });
    }
    if let Some(found) = by_kind(layout, linear, groups)? {
        return Ok(found);
    }
    if groups.iter().flat_map(|group| &group.shapes).all(Option::is_none) {
        return Err(format!(
            "the optimizer has no moments yet, and the sizes of its groups do not tell them apart; {WAY_OUT}"
        ));
    }
    in_turn(layout, linear, groups)
}

const WAY_OUT: &str =
    "PyTorch 2.6 and later store the names if the optimizer is given model.named_parameters()";

fn by_name(layout: &Layout, groups: &[Members]) -> Result<Vec<Vec<usize>>, String> {
    let place = |name: &String| {
        let canonical = names::canonical(name);
        let canonical =
            canonical.as_deref().map(|name| if name == names::HEAD { names::EMBEDDING } else { name });
        let found = layout.tensors().iter().position(|tensor| Some(tensor.name.as_str()) == canonical);
        found.ok_or_else(|| format!("`param_names` has `{name}`, which the model does not have"))
    };
    let mut tensors = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let names = group.names.as_deref().unwrap_or_default();
        if names.len() != group.shapes.len() {
            return Err(format!(
                "group {index} of the optimizer has {} tensors and {} `param_names`",
                group.shapes.len(),
                names.len()
            ));
        }
        tensors.push(names.iter().map(place).collect::<Result<Vec<usize>, _>>()?);
    }
    let mut seen: Vec<usize> = tensors.iter().flatten().copied().collect();
    seen.sort_unstable();
    if seen.into_iter().eq(0..layout.tensors().len()) {
        Ok(tensors)
    } else {
        Err("`param_names` does not have each tensor of the model once".to_owned())
    }
}

/// One possible assignment.
struct Candidate {
    /// The group of each kind.
    groups: [usize; KINDS.len()],
    tensors: Vec<Vec<usize>>,
    score: u32,
}

fn by_kind(layout: &Layout, linear: Linear, groups: &[Members]) -> Result<Option<Assignment>, String> {
    if groups.len() > MOST_GROUPS {
        return Ok(None);
    }
    let kinds: Vec<Kind> = layout.tensors().iter().map(Kind::from_tensor).collect();
    let counts = KINDS.map(|(kind, _)| kinds.iter().filter(|&&other| other == kind).count());
    let mut found: Vec<Candidate> = Vec::new();
    for code in 0..groups.len().pow(KINDS.len() as u32) {
        let of: [usize; KINDS.len()] =
            std::array::from_fn(|kind| code / groups.len().pow(kind as u32) % groups.len());
        let len = |group: usize| {
            (0..KINDS.len()).filter(|&kind| of[kind] == group).map(|kind| counts[kind]).sum::<usize>()
        };
        if !groups.iter().enumerate().all(|(group, members)| members.shapes.len() == len(group)) {
            continue;
        }
        // In the model's order or, as in minGPT, sorted by name.
        for sorted in [false, true] {
            let mut tensors = vec![Vec::new(); groups.len()];
            for (index, kind) in kinds.iter().enumerate() {
                tensors[of[*kind as usize]].push(index);
            }
            if sorted {
                let name = |&index: &usize| &layout.tensors()[index].name;
                tensors.iter_mut().for_each(|group| group.sort_by(|one, other| name(one).cmp(name(other))));
            }
            let is_new = !found.iter().any(|other| other.tensors == tensors);
            if is_new && fits(layout, linear, groups, &tensors) {
                found.push(Candidate { groups: of, score: score(of, groups, sorted), tensors });
            }
        }
    }
    let Some(best) = found.iter().map(|candidate| candidate.score).max() else { return Ok(None) };
    let several = found.len() > 1;
    found.retain(|candidate| candidate.score == best);
    match found.as_slice() {
        [_] => Ok(found
            .pop()
            .map(|one| Assignment { assumed: several.then(|| described(&one)), tensors: one.tensors })),
        _ => Err(format!("the sizes and shapes of the optimizer's groups fit in several ways; {WAY_OUT}")),
    }
}

fn fits(layout: &Layout, linear: Linear, groups: &[Members], tensors: &[Vec<usize>]) -> bool {
    groups.iter().zip(tensors).all(|(members, tensors)| {
        members.shapes.iter().zip(tensors).all(|(shape, &index)| {
            shape.as_ref().is_none_or(|shape| *shape == names::shape(&layout.tensors()[index], linear))
        })
    })
}

/// Rates how common an assignment is. Loops keep similar tensors together, and decay the weights of linear layers
/// first.
fn score(of: [usize; KINDS.len()], groups: &[Members], sorted: bool) -> u32 {
    let together = |one: Kind, other: Kind| u32::from(of[one as usize] == of[other as usize]);
    let most = groups.iter().map(|group| group.weight_decay).fold(0.0, f64::max);
    let decays = groups[of[Kind::LinearWeight as usize]].weight_decay >= most;
    4 * u32::from(decays)
        + 2 * together(Kind::LinearBias, Kind::NormBias)
        + 2 * together(Kind::NormWeight, Kind::NormBias)
        + together(Kind::TokenEmbedding, Kind::PositionEmbedding)
        + together(Kind::TokenEmbedding, Kind::LinearWeight)
        + u32::from(!sorted)
}

fn described(candidate: &Candidate) -> String {
    let groups = candidate.tensors.iter().enumerate().map(|(group, tensors)| {
        let kinds = KINDS.iter().filter(|(kind, _)| candidate.groups[*kind as usize] == group);
        let kinds: Vec<&str> = kinds.map(|(_, text)| *text).collect();
        format!("group {group} has {} ({} tensors)", kinds.join(", "), tensors.len())
    });
    let groups: Vec<String> = groups.collect();
    format!(
        "The optimizer's file does not name its tensors. Taken from the sizes of its groups, in the usual way: {}",
        groups.join("; ")
    )
}

fn in_turn(layout: &Layout, linear: Linear, groups: &[Members]) -> Result<Assignment, String> {
    let mut assigned: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    for (index, tensor) in layout.tensors().iter().enumerate() {
        let wanted = names::shape(tensor, linear);
        let next = |group: usize| groups[group].shapes.get(assigned[group].len()).and_then(Option::as_ref);
        let candidates: Vec<usize> =
            (0..groups.len()).filter(|&group| next(group) == Some(&wanted)).collect();
        match candidates.as_slice() {
            &[group] => assigned[group].push(index),
            [] => {
                let next: Vec<String> = (0..groups.len())
                    .map(|group| next(group).map_or("none".to_owned(), |shape| format!("{shape:?}")))
                    .collect();
                return Err(format!(
                    "`{}` is {wanted:?}, and the next tensors of the optimizer's groups are {}",
                    tensor.name,
                    next.join(", ")
                ));
            }
            _ => {
                return Err(format!(
                    "`{}` {wanted:?} fits several of the optimizer's groups; {WAY_OUT}",
                    tensor.name
                ));
            }
        }
    }
    Ok(Assignment { tensors: assigned, assumed: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstep_model::gpt2::settings::Gpt2Config;

    fn layout(n_layer: usize) -> Layout {
        Gpt2Config {
            vocab_size: 20,
            block_size: 8,
            n_layer,
            n_head: 2,
            n_embd: 6,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        }
        .layout()
    }

    /// Forms groups as a training loop does: `of` maps each tensor's name to a group.
    fn sorted(layout: &Layout, count: usize, of: impl Fn(&str) -> usize) -> Vec<Vec<usize>> {
        let mut groups = vec![Vec::new(); count];
        for (index, tensor) in layout.tensors().iter().enumerate() {
            groups[of(&tensor.name)].push(index);
        }
        groups
    }

    fn members(layout: &Layout, groups: &[Vec<usize>], decay: &[f64], has_moments: bool) -> Vec<Members> {
        let shape = |&index: &usize| has_moments.then(|| layout.tensors()[index].shape.clone());
        let zip = groups.iter().zip(decay);
        zip.map(|(group, &weight_decay)| Members {
            names: None,
            shapes: group.iter().map(shape).collect(),
            weight_decay,
        })
        .collect()
    }

    type Way<'a> = (&'a str, usize, &'a dyn Fn(&str) -> usize, &'a [f64]);

    /// The groups that notebooks form: by dimensions, by `no_decay = ["bias", "LayerNorm.weight"]` on GPT-2's names,
    /// norms only, minGPT's whitelist, and a separate group for embeddings.
    #[test]
    fn the_usual_groups_are_found_by_their_sizes() {
        let norm = |name: &str| name.contains(".ln_");
        let bias = |name: &str| name.ends_with(".bias");
        let embedding = |name: &str| name.contains(".wte") || name.contains(".wpe");
        let ways: [Way<'_>; 5] = [
            ("dimensions", 2, &|name| usize::from(norm(name) || bias(name)), &[0.1, 0.0]),
            ("no_decay by name", 2, &|name| usize::from(bias(name)), &[0.1, 0.0]),
            ("norms alone", 2, &|name| usize::from(norm(name)), &[0.1, 0.0]),
            (
                "linear weights alone",
                2,
                &|name| usize::from(norm(name) || bias(name) || embedding(name)),
                &[0.1, 0.0],
            ),
            (
                "embeddings",
                3,
                &|name| match name {
                    name if embedding(name) => 0,
                    name if norm(name) || bias(name) => 2,
                    _ => 1,
                },
                &[0.0, 0.1, 0.0],
            ),
        ];
        for n_layer in [1, 2, 12] {
            let layout = layout(n_layer);
            for (name, count, of, decay) in &ways {
                let groups = sorted(&layout, *count, of);
                let found = assign(&layout, Linear::InOut, &members(&layout, &groups, decay, true));
                assert_eq!(found.expect(name).tensors, groups, "{name}, {n_layer} layers");
            }
            // In the opposite order, and before the first update.
            let mut groups = sorted(&layout, 2, ways[0].2);
            groups.reverse();
            for has_moments in [true, false] {
                let found =
                    assign(&layout, Linear::InOut, &members(&layout, &groups, &[0.0, 0.1], has_moments));
                assert_eq!(found.expect("two groups").tensors, groups, "{n_layer}, {has_moments}");
            }
        }
    }

    /// minGPT sorts the names, so block 10 comes before block 2.
    #[test]
    fn sorted_names_are_found_by_their_shapes() {
        let layout = layout(12);
        let mut groups = sorted(&layout, 2, |name| {
            usize::from(name.contains(".ln_") || name.ends_with(".bias") || name.contains(".w"))
        });
        for group in &mut groups {
            group.sort_by_key(|&index| layout.tensors()[index].name.clone());
        }
        let found = assign(&layout, Linear::InOut, &members(&layout, &groups, &[0.1, 0.0], true));
        assert_eq!(found.expect("sorted").tensors, groups);
    }

    #[test]
    fn names_decide_whatever_the_order() {
        let layout = layout(2);
        let mut groups = sorted(&layout, 2, |name| usize::from(name.len() % 2 == 0));
        groups[0].reverse();
        let mut members = members(&layout, &groups, &[0.1, 0.0], true);
        for (members, group) in members.iter_mut().zip(&groups) {
            let name = |&index: &usize| format!("module.{}", layout.tensors()[index].name);
            members.names = Some(group.iter().map(name).collect());
        }
        assert_eq!(assign(&layout, Linear::InOut, &members).expect("names").tensors, groups);
        members[0].names.as_mut().expect("names")[0] = "transformer.h.9.ln_1.weight".to_owned();
        let error = assign(&layout, Linear::InOut, &members).err().expect("an unknown name");
        assert!(error.contains("h.9"), "{error}");
    }

    #[test]
    fn what_nothing_tells_apart_is_refused_with_a_way_out() {
        let layout = layout(2);
        // One group for each block: the two have the same shapes.
        let groups = sorted(&layout, 3, |name| match name {
            name if name.contains(".h.0.") => 0,
            name if name.contains(".h.1.") => 1,
            _ => 2,
        });
        let error = assign(&layout, Linear::InOut, &members(&layout, &groups, &[0.1; 3], true)).err();
        assert!(error.expect("refused").contains("named_parameters"), "no way out");
    }
}
