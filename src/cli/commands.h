// One function a subcommand. Each declares its options on the program and, when chosen on the
// command line, sets what is to run.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>

namespace skipway {

/// Runs after parsing; returns the exit code or throws skipway::Error.
using Run = std::function<int()>;

void add_train(CLI::App& program, Run& chosen);
void add_lr_find(CLI::App& program, Run& chosen);
void add_plan(CLI::App& program, Run& chosen);
void add_resume(CLI::App& program, Run& chosen);
void add_eval(CLI::App& program, Run& chosen);
void add_predict(CLI::App& program, Run& chosen);
void add_import(CLI::App& program, Run& chosen);
void add_export(CLI::App& program, Run& chosen);
void add_data(CLI::App& program, Run& chosen);
void add_diagnose(CLI::App& program, Run& chosen);
void add_models(CLI::App& program, Run& chosen);
void add_doctor(CLI::App& program, Run& chosen);
void add_config(CLI::App& program, Run& chosen);

}  // namespace skipway
