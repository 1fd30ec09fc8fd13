// check.cc: what C++ asks of its library and of the C library, a line each.
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <mutex>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fs = std::filesystem;

struct Counted {
	static inline std::atomic<int> destroyed{0};
	int value = 0;
	~Counted() { destroyed += value; }
};

thread_local Counted counted;

static void fail_deeply(int depth)
{
	Counted local{1};
	if (depth == 0)
		throw std::runtime_error("thrown");
	fail_deeply(depth - 1);
}

int main()
{
	try {
		fail_deeply(9);
	} catch (const std::exception &error) {
		std::cout << "exceptions " << error.what() << ' ' << Counted::destroyed << '\n';
	}
	Counted::destroyed = 0;

	std::mutex mutex;
	std::vector<std::thread> threads;
	int sum = 0;
	for (int i = 0; i < 8; i++)
		threads.emplace_back([&, i] {
			counted.value = 1;
			std::lock_guard lock(mutex);
			sum += i;
		});
	for (auto &thread : threads)
		thread.join();
	std::cout << "threads " << sum << "\nthread_local " << Counted::destroyed << '\n';

	auto promised = std::async(std::launch::async, []() -> int { throw std::logic_error("there"); });
	try {
		promised.get();
	} catch (const std::logic_error &error) {
		std::cout << "async " << error.what() << '\n';
	}

	fs::path folder = fs::temp_directory_path() / "check.cc.d";
	fs::create_directories(folder / "a/b");
	std::ofstream(folder / "a/file") << 3.25 << ' ' << "text\n";
	std::ifstream file(folder / "a/file");
	double number = 0;
	std::string word;
	file >> number >> word;
	std::cout << "iostreams " << number << ' ' << word << '\n';
	std::map<std::string, bool> names;
	for (const auto &entry : fs::recursive_directory_iterator(folder))
		names[entry.path().filename()] = entry.is_directory();
	std::cout << "filesystem";
	for (const auto &[name, is_directory] : names)
		std::cout << ' ' << name << (is_directory ? "/" : "");
	std::cout << "\n";
	fs::remove_all(folder);

	std::smatch match;
	std::string line = "version 12.2.0";
	std::regex_search(line, match, std::regex(R"((\d+)\.(\d+))"));
	std::cout << "regex " << match[1] << '-' << match[2] << '\n';
	try {
		std::regex broken("(");
	} catch (const std::regex_error &) {
		std::cout << "regex_error\n";
	}
}
