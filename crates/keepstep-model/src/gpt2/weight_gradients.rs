//! The gradients of weights, as jobs that run together with the heads of an attention.

use crate::gpt2::buffers::{AfterAttention, BeforeAttention, RowGradients, Scratch, SumColumns};
use crate::gpt2::layout::LayerViews;
use crate::ops::add::add_to;
use crate::ops::affine::Affine;
use crate::ops::attention::HeadColumns;
use crate::ops::rows::for_each_in_order;
use keepstep_numerics::matmul::MatmulKind;
use keepstep_numerics::matmul::PackTask;
use keepstep_numerics::matmul::{Accumulate, MatmulTask, Matrix, MatrixMut};

/// One job of a parallel region of the backward pass.
pub(super) enum Job<'a> {
    Matmul(MatmulTask<'a>),
    /// Adds up the sums of all blocks of rows, starting at this column.
    Sums(&'a mut [f32], usize),
    Head(HeadColumns<'a>),
    Pack(PackTask<'a>),
}

/// The jobs of one region.
pub(super) struct Jobs<'a> {
    list: Vec<Job<'a>>,
    num_tasks: usize,
}

impl<'a> Jobs<'a> {
    /// Begins the list of a region that also computes this many heads of attention. A matmul is one job for each thread;
    /// half as many if heads fill the end, because each job packs for itself what it reads.
    pub(super) fn with_heads(num_heads: usize) -> Jobs<'a> {
        let threads = rayon::current_num_threads();
        let num_tasks = if num_heads >= 8 * threads { threads.div_ceil(2) } else { threads };
        Jobs { list: Vec::new(), num_tasks }
    }

    pub(super) fn extend(&mut self, jobs: impl IntoIterator<Item = Job<'a>>) {
        self.list.extend(jobs);
    }

    /// Adds the jobs for the weights before the next block's attention, or for the last LayerNorm. `before` holds the
    /// gradients of the next block's queries, keys and values.
    pub(super) fn push_before_attention(
        &mut self,
        next: Option<(&'a mut LayerViews<&mut [f32]>, &'a BeforeAttention)>,
        ln_f: &'a mut Affine<&mut [f32]>,
        scratch: &'a Scratch,
        rows: usize,
        at: &SumColumns,
    ) {
        match next {
            Some((LayerViews { attn_c_attn, ln_1, .. }, before)) => {
                let (normal, d_qkv) = (scratch.ln_1.first(rows), before.qkv.first(rows));
                self.push_linear(attn_c_attn, normal, d_qkv, at.attn_c_attn);
                self.push_layer_norm(ln_1, at.ln_1_weight, at.ln_1_bias);
            }
            None => self.push_layer_norm(ln_f, at.ln_1_weight, at.ln_1_bias),
        }
    }

    /// Adds the jobs for the weights after a block's attention.
    pub(super) fn push_after_attention(
        &mut self,
        gradient: &'a mut LayerViews<&mut [f32]>,
        after: &'a AfterAttention,
        scratch: &'a Scratch,
        row_gradients: &'a RowGradients,
        rows: usize,
        at: &SumColumns,
    ) {
        let LayerViews { attn_c_proj, ln_2, mlp_c_fc, mlp_c_proj, .. } = gradient;
        let (active, d_mlp) = (scratch.gelu.first(rows), row_gradients.d_mlp.first(rows));
        let (normal, d_fc) = (scratch.ln_2.first(rows), after.fc.first(rows));
        let (attended, d_projection) = (after.attention.first(rows), row_gradients.d_projection.first(rows));
        self.push_linear(mlp_c_proj, active, d_mlp, at.mlp_c_proj);
        self.push_linear(mlp_c_fc, normal, d_fc, at.mlp_c_fc);
        self.push_linear(attn_c_proj, attended, d_projection, at.attn_c_proj);
        self.push_layer_norm(ln_2, at.ln_2_weight, at.ln_2_bias);
    }

    /// Adds the jobs for a LayerNorm's weight and bias.
    fn push_layer_norm(&mut self, gradient: &'a mut Affine<&mut [f32]>, weight: usize, bias: usize) {
        self.list.push(Job::Sums(gradient.weight, weight));
        self.list.push(Job::Sums(gradient.bias, bias));
    }

    /// Adds the jobs for a linear layer's weight and bias.
    fn push_linear(
        &mut self,
        gradient: &'a mut Affine<&mut [f32]>,
        x: &'a [f32],
        dy: &'a [f32],
        bias_sums: usize,
    ) {
        let outs = gradient.bias.len();
        let ins = gradient.weight.len() / outs;
        let rows = x.len() / ins;
        let weight = MatrixMut::new(gradient.weight, ins, outs);
        let (x, dy) = (Matrix::new(x, rows, ins).transposed(), Matrix::new(dy, rows, outs));
        let tasks = MatmulTask::split_in(self.num_tasks, weight, Accumulate::Replace, x, dy);
        self.list.extend(tasks.into_iter().map(Job::Matmul));
        self.list.push(Job::Sums(gradient.bias, bias_sums));
    }
}

/// Runs jobs in parallel. Each thread takes the next one that is left. Matmuls take longest and come first; small jobs
/// fill the end. `sums` holds the column sums of all blocks of rows.
pub(super) fn run<'a>(
    matmul_kind: MatmulKind,
    jobs: Jobs<'a>,
    sums: &[f32],
    at: &SumColumns,
    head: &(dyn Fn(HeadColumns<'a>) + Sync),
) {
    let mut jobs = jobs.list;
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
            for sums in sums.chunks(at.all) {
                add_to(out, &sums[first..]);
            }
        }
        Job::Head(columns) => head(columns),
    });
}
