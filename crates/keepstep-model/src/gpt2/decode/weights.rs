//! The weights that a decoder reads: as the layout orders them, or in panels.

use crate::gpt2::layout::Views;
use crate::gpt2::settings::Gpt2Config;
use crate::layout::Layout;
use crate::ops::affine::Affine;
use crate::ops::linear;
use crate::ops::spin_pool::SpinPool;
use keepstep_numerics::matmul::{
    Accumulate, MatmulTask, Matrix, MatrixMut, Panels, arrange_columns_in_panels, arrange_in_panels, matmul,
    matmul_panels, panel_width,
};

/// The smallest number of multiply-adds in a part of a matmul: a few microseconds of work.
const MIN_PART_MULTIPLY_ADDS: usize = 1 << 15;

/// The most multiply-adds in a part of several panels. With longer parts, threads would wait for the last one.
const MAX_PART_MULTIPLY_ADDS: usize = 1 << 20;

/// Parameters whose large matrices lie in panels, in the places of the model's layout.
#[derive(Debug)]
pub struct PanelParameters {
    values: Vec<f32>,
    width: usize,
}

impl PanelParameters {
    /// Arranges parameters for a decoder that runs on `threads` threads. They take no more memory than before; one
    /// matrix of a block is copied at a time.
    ///
    /// # Panics
    /// If there are not as many values as the model has parameters.
    pub fn new(model: &Gpt2Config, mut values: Vec<f32>, threads: usize) -> PanelParameters {
        // As many panels as parts in the smallest matrix, where these are not too small.
        let parts = (model.n_embd * model.n_embd / MIN_PART_MULTIPLY_ADDS).clamp(1, 2 * threads);
        let width = panel_width(model.n_embd, parts);
        let views = model.views_mut(&model.layout(), &mut values);
        arrange_columns_in_panels(views.wte, model.n_embd, width);
        for layer in views.layers {
            for affine in [layer.attn_c_attn, layer.attn_c_proj, layer.mlp_c_fc, layer.mlp_c_proj] {
                let rows = affine.weight.len() / affine.bias.len();
                arrange_in_panels(affine.weight, rows, width);
            }
        }
        PanelParameters { values, width }
    }

    /// Returns the weights that a decoder reads.
    ///
    /// # Panics
    /// If `layout` is not that of this model.
    pub fn weights(&self, model: &Gpt2Config, layout: &Layout) -> DecoderWeights<'_> {
        DecoderWeights { views: model.views(layout, &self.values), panel_width: Some(self.width) }
    }
}

/// A model's weights, in either order.
pub struct DecoderWeights<'a> {
    pub(super) views: Views<&'a [f32]>,
    panel_width: Option<usize>,
}

impl<'a> DecoderWeights<'a> {
    /// Takes tensors whose numbers are in the layout's order.
    pub fn in_place(views: Views<&'a [f32]>) -> DecoderWeights<'a> {
        DecoderWeights { views, panel_width: None }
    }

    /// `x = wte[token] + wpe[place]`.
    pub(super) fn embed(&self, x: &mut [f32], token: u32, place: usize) {
        let width = x.len();
        match self.head(width) {
            Weight::InPlace(_) => x.copy_from_slice(&self.views.wte[token as usize * width..][..width]),
            Weight::Panels(panels) => panels.copy_column(x, token as usize),
        }
        for (x, place) in x.iter_mut().zip(&self.views.wpe[place * width..]) {
            *x += place;
        }
    }

    /// The head, `[n_embd, vocab_size]`.
    pub(super) fn head(&self, n_embd: usize) -> Weight<'a> {
        let wte = self.views.wte;
        let vocab_size = wte.len() / n_embd;
        match self.panel_width {
            None => Weight::InPlace(Matrix::new(wte, vocab_size, n_embd).transposed()),
            Some(width) => Weight::Panels(Panels::new(wte, n_embd, vocab_size, width)),
        }
    }

    /// The weight of a linear layer, `[in, out]`.
    pub(super) fn linear(&self, affine: &Affine<&'a [f32]>) -> Weight<'a> {
        let weight = linear::weight(affine);
        match self.panel_width {
            None => Weight::InPlace(weight),
            Some(width) => Weight::Panels(Panels::new(affine.weight, weight.rows(), weight.cols(), width)),
        }
    }
}

/// A matrix that decoding multiplies by.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    InPlace(Matrix<'a>),
    Panels(Panels<'a>),
}

impl<'a> Weight<'a> {
    /// Computes a matmul of a few rows on the threads of the spin pool. Each takes some columns and reads them once.
    pub(super) fn multiply_few(
        self,
        pool: &SpinPool,
        out: MatrixMut<'a>,
        accumulate: Accumulate<'a>,
        lhs: Matrix<'a>,
    ) {
        match self {
            Weight::InPlace(rhs) => {
                // Two parts per thread keep all threads busy until the end, and long parts read memory fastest. Parts
                // are whole vectors and cache lines, which no other part writes to.
                let least = (MIN_PART_MULTIPLY_ADDS / rhs.rows().max(1)).max(1);
                let part = least.max(rhs.cols() / (2 * pool.size())).next_multiple_of(64);
                let tasks = MatmulTask::split_columns(out, accumulate, lhs, rhs, part);
                pool.for_each(tasks, MatmulTask::run_streamed);
            }
            Weight::Panels(rhs) => {
                let tasks = MatmulTask::split_panels(out, accumulate, lhs, rhs);
                let panel = rhs.rows() * rhs.cols() / tasks.len().max(1);
                let [least, most] =
                    [MIN_PART_MULTIPLY_ADDS, MAX_PART_MULTIPLY_ADDS].map(|limit| limit / panel.max(1));
                let part = tasks.len().div_ceil(2 * pool.size()).clamp(least.max(1), most.max(1));
                let parts = tasks.len().div_ceil(part);
                let mut tasks = tasks.into_iter();
                let parts: Vec<Vec<_>> = (0..parts).map(|_| tasks.by_ref().take(part).collect()).collect();
                pool.for_each(parts, |part| part.into_iter().for_each(MatmulTask::run_streamed));
            }
        }
    }

    /// Computes a matmul of many rows on the threads of the current rayon pool.
    pub(super) fn multiply(self, out: MatrixMut<'_>, accumulate: Accumulate<'_>, lhs: Matrix<'_>) {
        match self {
            Weight::InPlace(rhs) => matmul(out, accumulate, lhs, rhs),
            Weight::Panels(rhs) => matmul_panels(out, accumulate, lhs, rhs),
        }
    }
}
