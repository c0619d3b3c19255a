//! The program contains the vector instructions that it uses, whatever processor it was built on.
#![cfg(target_arch = "x86_64")]

/// An instruction of AVX-512 on whole registers, in the terms of its encoding (Intel's Software Developer's Manual, volume 2,
/// "Intel AVX-512 encoding"): the prefix EVEX has an opcode map and a mandatory prefix, each as a number.
struct Instruction {
    name: &'static str,
    map: u8,
    prefix: u8,
    opcode: u8,
}

impl Instruction {
    /// How often it seems to be in a program, with float32's width.
    fn count(&self, program: &[u8]) -> usize {
        let is_here = |code: &&[u8]| {
            code[0] == 0x62
                && code[1] & 0x0F == self.map
                && code[2] & 0x87 == 0x04 | self.prefix
                && code[3] & 0x60 == 0x40
                && code[4] == self.opcode
        };
        program.windows(5).filter(is_here).count()
    }
}

/// A kernel's tile of 12 x 32 alone has twenty-four of them.
const A_TILE: usize = 24;

#[test]
fn avx512_is_in_the_program() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_keepstep")).expect("the program");
    for instruction in [
        Instruction { name: "VFMADD231PS", map: 2, prefix: 1, opcode: 0xB8 },
        Instruction { name: "VDPBF16PS", map: 2, prefix: 2, opcode: 0x52 },
    ] {
        let count = instruction.count(&program);
        assert!(count >= A_TILE, "{} is in the program {count} times", instruction.name);
    }
    // Our code never uses AVX-512 ER (reciprocals to 28 bits). This shows that the search can fail.
    let absent = Instruction { name: "VRCP28PS", map: 2, prefix: 1, opcode: 0xCA };
    let count = absent.count(&program);
    assert!(count < A_TILE, "{} seems to be in the program {count} times", absent.name);
}
