//! GPT-2 as `transformers.GPT2LMHeadModel` defines it: all that is particular to this model.

#[cfg(test)]
mod bf16_tests;
pub(crate) mod block;
mod buffers;
mod cpu;
pub mod decode;
mod dropout_site;
pub mod layout;
mod packed;
#[cfg(test)]
mod reference;
pub mod settings;

pub use cpu::CpuEngine;

#[cfg(test)]
mod tests {
    use keepstep_numerics::testing::run_again_on;

    /// A processor without AVX-512 computes the same golden bits.
    #[test]
    fn golden_bits_on_a_haswell_processor() {
        run_again_on("Haswell", &["bits_are_golden"]);
    }

    /// So does one without AVX2 and FMA.
    #[test]
    fn golden_bits_on_a_nehalem_processor() {
        run_again_on("Nehalem", &["bits_are_golden"]);
    }
}
