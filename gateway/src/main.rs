fn main() -> std::process::ExitCode {
    gateway::run(std::env::args_os())
}
