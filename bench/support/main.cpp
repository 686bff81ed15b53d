#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <fovea/core/config.hpp>
#include <fovea/simd/ops.hpp>
#include <fovea/version.hpp>

#include "bench.hpp"
#include "maps.hpp"
#include "recall/recall.hpp"

#define FOVEA_BENCH_TEXT(x) #x
#define FOVEA_BENCH_VALUE(x) FOVEA_BENCH_TEXT(x)

namespace {

constexpr const char* help = R"(fovea_bench [options] [Google Benchmark's options]
  --quick             fewer shapes
  --filter=REGEX      only benches whose name it matches
  --threads=1,2       numbers of threads
  --input=Q,K,V       the user's own NPY files instead of the shapes
  --data=FOLDER       where the stored tensors are
  --sample=SECONDS    length of one timed sample
  --repetitions=N     samples of each bench
  --budget=SECONDS    shorter samples when the run would take longer than this
  --maps=FOLDER       writes attention maps of the methods and times nothing
  --recall=FILE       writes what the methods retrieve in associative recall and times nothing
)";

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

struct Wanted {
  bench::Selection selection = {};
  std::string maps = {}, recall = {};
};

// Takes our own options out of argv.
Wanted parse(int& argc, char** argv) {
  Wanted wanted;
  bench::Selection& selection = wanted.selection;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto equals = argument.find('=');
    const std::string key = argument.substr(0, equals),
                      value = equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (key == "--quick") {
      selection.quick = true;
    } else if (key == "--filter") {
      selection.filter = value;
    } else if (key == "--threads") {
      selection.threads.clear();
      for (const std::string& part : split(value)) selection.threads.push_back(std::stoi(part));
    } else if (key == "--data") {
      bench::set_data_folder(value);
    } else if (key == "--sample") {
      selection.sample_seconds = std::stod(value);
    } else if (key == "--repetitions") {
      selection.repetitions = std::stoi(value);
    } else if (key == "--budget") {
      selection.budget_seconds = std::stod(value);
    } else if (key == "--maps") {
      wanted.maps = value;
    } else if (key == "--recall") {
      wanted.recall = value;
    } else if (key == "--input") {
      const auto files = split(value);
      if (files.size() != 3) throw std::runtime_error("--input takes three files, q,k,v");
      bench::Shape shape = bench::user_shape(files[0], files[1], files[2]);
      selection.instead.push_back(shape);
      if (shape.queries > 1) {
        shape.pattern = bench::causal(shape.queries, shape.keys);
        selection.instead.push_back(shape);
      }
    } else {
      if (key == "--help") std::fputs(help, stdout);
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return wanted;
}

void describe_build() {
  benchmark::AddCustomContext("fovea", FOVEA_VERSION);
  benchmark::AddCustomContext("compiler", FOVEA_BENCH_COMPILER);
  benchmark::AddCustomContext("flags", FOVEA_BENCH_FLAGS);
  benchmark::AddCustomContext("instruction_set", FOVEA_BENCH_VALUE(FOVEA_ISA));
  benchmark::AddCustomContext("lanes_f32", std::to_string(fovea::simd::lanes<float>));
  benchmark::AddCustomContext("eigen", FOVEA_BENCH_VALUE(EIGEN_WORLD_VERSION) "." FOVEA_BENCH_VALUE(
                                           EIGEN_MAJOR_VERSION) "." FOVEA_BENCH_VALUE(EIGEN_MINOR_VERSION));
  benchmark::AddCustomContext("xsimd", FOVEA_BENCH_VALUE(XSIMD_VERSION_MAJOR) "." FOVEA_BENCH_VALUE(
                                           XSIMD_VERSION_MINOR) "." FOVEA_BENCH_VALUE(XSIMD_VERSION_PATCH));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Wanted wanted = parse(argc, argv);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    if (!wanted.maps.empty() || !wanted.recall.empty()) {
      bool whole = true;
      if (!wanted.maps.empty()) whole = bench::make_maps(wanted.maps, wanted.selection) && whole;
      if (!wanted.recall.empty()) whole = bench::run_recall(wanted.recall, wanted.selection) && whole;
      return whole ? 0 : 1;
    }
    bench::register_selected(wanted.selection);
    describe_build();
    // Google Benchmark describes the machine on the error stream; there we want the progress alone.
    const std::unique_ptr<benchmark::BenchmarkReporter> display(benchmark::CreateDefaultDisplayReporter());
    display->SetErrorStream(&std::cout);
    benchmark::RunSpecifiedBenchmarks(display.get());
    benchmark::Shutdown();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fovea_bench: %s\n", error.what());
    return 2;
  }
  return bench::failures().empty() ? 0 : 1;
}
