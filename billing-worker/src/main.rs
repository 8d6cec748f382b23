fn main() -> std::process::ExitCode {
    billing_worker::run(std::env::args_os())
}
