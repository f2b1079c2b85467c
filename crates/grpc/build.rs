//! Messages and services out of the definitions in `proto/`, without an installed protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut compiler = protox::Compiler::new([&folder])?;
    compiler.include_source_info(true).include_imports(true);
    compiler
        .open_files(["problem", "query", "ingest"].map(|name| folder.join(format!("headwater/v1/{name}.proto"))))?;
    let descriptors = Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".headwater.v1.SendRequest.events")
        .bytes(".headwater.v1.RowsResponse.arrow")
        .bytes(".headwater.v1.SqlResponse.arrow")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
