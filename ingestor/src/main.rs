fn main() -> std::process::ExitCode {
    ingestor::run(std::env::args_os())
}
