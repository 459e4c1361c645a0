//! placeholder
pub fn run() -> crate::fail::Result<()> {
    Ok(())
}
