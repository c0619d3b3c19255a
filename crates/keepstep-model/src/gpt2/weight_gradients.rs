//! The gradients of weights: tasks that run together with the heads of an attention.

use crate::gpt2::block::{BlockBuffers, ScratchBuffers};
use crate::gpt2::buffers::SumColumns;
use crate::gpt2::layout::LayerViews;
use crate::ops::affine::Affine;
use crate::ops::rows::{BLOCK, for_each_in_order};
use keepstep_numerics::matmul::MatmulKind;
use keepstep_numerics::matmul::PackTask;
use keepstep_numerics::matmul::{Accumulate, MatmulTask, Matrix, MatrixMut};

/// One task of a region of the backward pass.
pub(super) enum Job<'a> {
    Matmul(MatmulTask<'a>),
    /// Adds up the sums of blocks of rows from this column on.
    Sums(&'a mut [f32], usize),
    Head(usize),
    Pack(PackTask<'a>),
}

/// The gradients of the weights before the next block's attention, or of the last LayerNorm.
pub(super) fn jobs_of_next<'a>(
    jobs: &mut Vec<Job<'a>>,
    next: Option<&'a mut LayerViews<&mut [f32]>>,
    ln_f: &'a mut Affine<&mut [f32]>,
    buffers: BlockBuffers<'a>,
    scratch: ScratchBuffers<'a>,
    rows: usize,
    at: &SumColumns,
) {
    match next {
        Some(LayerViews { attn_c_attn, ln_1, .. }) => {
            // SAFETY: until these jobs are done, their inputs are only read.
            let (ln_1_out, d_qkv) = unsafe { (scratch.ln_1.read(0..rows), buffers.qkv.read(0..rows)) };
            product(jobs, attn_c_attn, ln_1_out, d_qkv, at.attn_c_attn);
            norm(jobs, ln_1, at.ln_1_weight, at.ln_1_bias);
        }
        None => norm(jobs, ln_f, at.ln_1_weight, at.ln_1_bias),
    }
}

/// The gradients of a LayerNorm's weight and bias.
fn norm<'a>(jobs: &mut Vec<Job<'a>>, gradient: &'a mut Affine<&mut [f32]>, weight: usize, bias: usize) {
    jobs.push(Job::Sums(gradient.weight, weight));
    jobs.push(Job::Sums(gradient.bias, bias));
}

/// The gradients of the weights after a block's attention.
pub(super) fn jobs_of<'a>(
    jobs: &mut Vec<Job<'a>>,
    gradient: &'a mut LayerViews<&mut [f32]>,
    buffers: BlockBuffers<'a>,
    scratch: ScratchBuffers<'a>,
    rows: usize,
    at: &SumColumns,
) {
    let LayerViews { attn_c_proj, ln_2, mlp_c_fc, mlp_c_proj, .. } = gradient;
    // SAFETY: until these jobs are done, their inputs are only read.
    let (active, d_mlp, normal, d_fc, attended, d_projection) = unsafe {
        (
            scratch.gelu.read(0..rows),
            scratch.d_mlp.read(0..rows),
            scratch.ln_2.read(0..rows),
            buffers.fc.read(0..rows),
            buffers.attention.read(0..rows),
            scratch.d_projection.read(0..rows),
        )
    };
    product(jobs, mlp_c_proj, active, d_mlp, at.mlp_c_proj);
    product(jobs, mlp_c_fc, normal, d_fc, at.mlp_c_fc);
    product(jobs, attn_c_proj, attended, d_projection, at.attn_c_proj);
    norm(jobs, ln_2, at.ln_2_weight, at.ln_2_bias);
}

/// The gradient of a linear layer's weight and bias.
fn product<'a>(
    jobs: &mut Vec<Job<'a>>,
    gradient: &'a mut Affine<&mut [f32]>,
    x: &'a [f32],
    dy: &'a [f32],
    bias_sums: usize,
) {
    let outs = gradient.bias.len();
    let ins = gradient.weight.len() / outs;
    let rows = x.len() / ins;
    let weight = MatrixMut::new(gradient.weight, ins, outs);
    let x = Matrix::new(x, rows, ins).transposed();
    jobs.extend(
        MatmulTask::split(weight, Accumulate::Replace, x, Matrix::new(dy, rows, outs))
            .into_iter()
            .map(Job::Matmul),
    );
    jobs.push(Job::Sums(gradient.bias, bias_sums));
}

/// Does jobs side by side. Each thread takes the next one that is left: matmuls, which take longest, come first, and what
/// is small fills the end.
///
/// # Safety
/// Nothing else writes to the scratch's sums meanwhile.
pub(super) unsafe fn run(
    matmul_kind: MatmulKind,
    mut jobs: Vec<Job<'_>>,
    scratch: ScratchBuffers<'_>,
    rows: usize,
    head: Option<&(dyn Fn(usize) + Sync)>,
) {
    let blocks = rows.div_ceil(BLOCK);
    // SAFETY: by this function's contract, nothing writes to these sums meanwhile.
    let sums: &[f32] = unsafe { scratch.sums.read(0..blocks) };
    let cols = sums.len() / blocks;
    jobs.sort_by_key(|job| match job {
        Job::Matmul(_) => 0,
        Job::Head(_) => 1,
        Job::Pack(_) => 2,
        Job::Sums(..) => 3,
    });
    for_each_in_order(jobs, |job| match job {
        Job::Matmul(task) => matmul_kind.run(task),
        Job::Pack(task) => task.run(),
        Job::Sums(out, first) => {
            out.fill(0.0);
            for sums in sums.chunks(cols) {
                for (out, sum) in out.iter_mut().zip(&sums[first..]) {
                    *out += sum;
                }
            }
        }
        Job::Head(index) => {
            if let Some(head) = head {
                head(index);
            }
        }
    });
}
